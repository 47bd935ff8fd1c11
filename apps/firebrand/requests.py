"""What a clone is asked for with, checked. Pure values; whether the names are free is for the database to say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.text import slugify

from apps.firebrand.errors import BadBrandName, BadDomain
from apps.firebrand.palettes import Palette, merged

NAME_LIMIT = 80  # characters
SLUG_LIMIT = 60
DOMAIN_LIMIT = 253  # RFC 1035, 2.3.4, as written with dots
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
RESERVED = frozenset({"media"})  # begins an address of this app
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def valid_name(name: object) -> str:
    """A brand's name, spaces around it removed.

    Raises:
        BadBrandName: empty, over 80 characters, or with control characters.
    """
    if not isinstance(name, str) or not name.strip():
        raise BadBrandName("the brand needs a name")
    name = name.strip()
    if len(name) > NAME_LIMIT:
        raise BadBrandName(f"a brand's name has at most {NAME_LIMIT} characters, not {len(name)}")
    if not name.isprintable():
        raise BadBrandName("a brand's name may not hold control characters")
    return name


def valid_slug(slug: object) -> str:
    """What the brand is called in addresses and on disk.

    Raises:
        BadBrandName: not small letters and digits joined by hyphens, over 60 characters, or reserved.
    """
    if not isinstance(slug, str) or len(slug) > SLUG_LIMIT or not _SLUG.fullmatch(slug) or slug in RESERVED:
        raise BadBrandName(
            f"a slug is at most {SLUG_LIMIT} small letters and digits joined by hyphens, not {str(slug)[:80]!r}; "
            "give one where the name has none of them"
        )
    return slug


def valid_domain(domain: object) -> str:
    """A host name, in small letters.

    Raises:
        BadDomain: not at least two labels of letters, digits and hyphens joined by dots, too long, or an IP address.
    """
    text = domain.strip().lower() if isinstance(domain, str) else ""
    labels = text.split(".")
    if len(text) > DOMAIN_LIMIT or len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise BadDomain(f"a domain is a host name such as ember.example, not {str(domain)[:80]!r}")
    return text


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """A clone as asked for.

    Attributes:
        brand: the slug of the brand to clone.
        name, domain, slug: the new brand's.
        changes: colours by role that differ from the source's.
    """

    brand: str
    name: str
    domain: str
    slug: str
    changes: Mapping[str, str]

    @classmethod
    def parse(
        cls, *, brand: object, name: object, domain: object, slug: object = None, palette: object = None
    ) -> "CloneRequest":
        """Check what came from outside.

        Raises:
            BadBrandName, BadDomain, BadPalette: see there.
        """
        changes: Palette = merged({}, palette)
        checked = valid_name(name)
        return cls(
            brand=str(brand),
            name=checked,
            domain=valid_domain(domain),
            slug=valid_slug(slugify(checked)[:SLUG_LIMIT].strip("-") if slug in (None, "") else slug),
            changes=changes,
        )

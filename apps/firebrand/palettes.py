"""A brand's colours, by role."""

import re
from collections.abc import Mapping

from apps.firebrand.errors import BadPalette

ROLES = ("primary", "secondary", "accent", "background", "surface", "text")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")

Palette = dict[str, str]

PRESETS: dict[str, Palette] = {
    "ember": {
        "primary": "#a8452c",
        "secondary": "#2f3e46",
        "accent": "#e9a23b",
        "background": "#faf6f1",
        "surface": "#f1e7db",
        "text": "#2a2421",
    },
    "fjord": {
        "primary": "#1f5673",
        "secondary": "#463f3a",
        "accent": "#e07a5f",
        "background": "#f5f8fa",
        "surface": "#dfe9ee",
        "text": "#1c2530",
    },
    "moss": {
        "primary": "#4a6b3a",
        "secondary": "#5b4b3a",
        "accent": "#d9a441",
        "background": "#f7f8f2",
        "surface": "#e6ebd9",
        "text": "#23281f",
    },
    "plum": {
        "primary": "#6d3b5e",
        "secondary": "#33415c",
        "accent": "#d88c9a",
        "background": "#faf6f9",
        "surface": "#efe3ec",
        "text": "#2a2029",
    },
    "graphite": {
        "primary": "#30343b",
        "secondary": "#7a6a53",
        "accent": "#c8553d",
        "background": "#f6f6f5",
        "surface": "#e6e6e3",
        "text": "#1d1f22",
    },
}


def merged(base: Mapping[str, str], changes: object) -> Palette:
    """`base` with some roles changed (None: with none); colours in lower case.

    Raises:
        BadPalette: a role that is not in `ROLES`, or a colour that is not `#rrggbb`.
    """
    if changes is None:
        return dict(base)
    if not isinstance(changes, Mapping):
        raise BadPalette(f"palette must be an object of colours by role, not {type(changes).__name__}")
    palette = dict(base)
    for role, colour in changes.items():
        if role not in ROLES:
            raise BadPalette(f"palette has no role {str(role)[:40]!r}; its roles are {', '.join(ROLES)}")
        if not isinstance(colour, str) or not COLOUR.fullmatch(colour):
            raise BadPalette(f"palette: {role} must be a colour such as #a8452c, not {str(colour)[:40]!r}")
        palette[role] = colour.lower()
    return palette


class Recolouring:
    """Replaces one palette's colours by another's, wherever they are written as `#rrggbb`.

    A style sheet names the role (`--brand-primary: #a8452c`): then the role decides, also where two roles had the same
    colour. Elsewhere the colour decides, and of two roles with the same colour the first in `ROLES`.

    Attributes:
        changed: how many colours were replaced so far.
    """

    _pattern = re.compile(r"(?:--brand-(?P<role>[a-z]+)\s*:\s*)?(?P<colour>#[0-9a-fA-F]{6})(?![0-9a-fA-F])")

    def __init__(self, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        self._new = new
        self._by_colour = {old[role].lower(): new[role] for role in reversed(ROLES) if role in old and role in new}
        self.changed = 0

    def text(self, text: str) -> str:
        """`text` in the new colours."""
        return self._pattern.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        colour = match["colour"]
        new = self._new.get(match["role"] or "") or self._by_colour.get(colour.lower(), colour)
        if new == colour.lower():
            return match[0]
        self.changed += 1
        return match[0][: -len(colour)] + new

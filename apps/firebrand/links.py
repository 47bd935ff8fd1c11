"""The links in a brand's pages and templates: finding, reading and rewriting them. Pure text, no database.

A brand's HTML refers to its own things in three ways:

- by address, with its domain (`https://ember.example/p/17-alva`, also `http:`, `//` and `www.`) or without
  (`/p/17-alva`): `/p/<product id>-<slug>`, `/c/<category id>-<slug>`, `/pages/<page slug>`, `/media/<path>`, each
  with or without a query and a fragment;
- by id, in the attributes `data-product` and `data-category`;
- by its bare domain in the text, such as in an e-mail address.

HTML is not parsed into a tree and written anew, for that would change what nobody asked to change; tags and attributes
are found by their syntax, and what is not a reference stays as it is, byte for byte.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from html import escape, unescape
from typing import Literal
from urllib.parse import quote, unquote

from apps.firebrand.palettes import Recolouring

Kind = Literal["product", "category", "page", "media", "other"]

_TAG = re.compile(r"<!--.*?-->|<[a-zA-Z](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>", re.DOTALL)
_ATTRIBUTE = re.compile(
    r"(?P<before>\s(?P<name>[a-zA-Z_:][\w:.-]*)\s*=\s*)(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)')"
)
_CSS_URL = re.compile(r"url\(\s*(?P<quote>['\"]?)(?P<url>[^'\")]+)(?P=quote)\s*\)")
_URL_ATTRIBUTES = frozenset({"href", "src", "action", "poster", "data-src", "formaction"})
_COLOUR_ATTRIBUTES = frozenset({"style", "fill", "stroke", "stop-color", "color", "bgcolor", "content"})
_ID_ATTRIBUTES: dict[str, Kind] = {"data-product": "product", "data-category": "category"}
_NUMBERED: dict[str, Kind] = {"p": "product", "c": "category"}

#: What a link whose id leads nowhere gets instead: the number itself could be another brand's.
NOWHERE = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to something of the brand's own.

    Attributes:
        kind: of what. `other` is any further address below the domain.
        key: the id of a product or category, the slug of a page, the path of a media file, the whole path of another.
        tail: what follows and stays as it is: the slug behind the id, the query, the fragment.
    """

    kind: Kind
    key: int | str
    tail: str = ""

    @classmethod
    def parse(cls, address: str) -> "Link":
        """Read what follows the host of an address; as written in HTML, so with `&amp;` and %-escapes."""
        cut = min((at for at in (address.find("?"), address.find("#")) if at >= 0), default=len(address))
        path, tail = address[:cut], address[cut:]
        first, _, rest = path.lstrip("/").partition("/")
        if kind := _NUMBERED.get(first):
            digits = re.match(r"[0-9]{1,18}(?![0-9])", rest)
            if digits:
                return cls(kind, int(digits[0]), rest[digits.end() :] + tail)
        elif first == "pages" and rest:
            slug, slash, more = rest.partition("/")
            return cls("page", slug, slash + more + tail)
        elif first == "media" and rest:
            return cls("media", unquote(unescape(rest)), tail)
        return cls("other", path, tail)

    def __str__(self) -> str:
        match self.kind:
            case "product":
                return f"/p/{self.key}{self.tail}"
            case "category":
                return f"/c/{self.key}{self.tail}"
            case "page":
                return f"/pages/{self.key}{self.tail}"
            case "media":
                return f"/media/{escape(quote(str(self.key)))}{self.tail}"
            case _:
                return f"{self.key}{self.tail}"


def host_pattern(domain: str) -> re.Pattern[str]:
    """Mentions of a domain or of a host below it (`www.`, `cdn.`), as the group `host`; `sub` is what stands before.

    `notember.example` and `ember.example.org` are other domains than `ember.example`, and do not match.
    """
    return re.compile(
        rf"(?<![\w.-])(?P<host>(?P<sub>(?:[a-z0-9-]{{1,63}}\.)*){re.escape(domain)})(?![\w-]|\.\w)", re.IGNORECASE
    )


class HtmlWalk:
    """Goes through HTML and CSS of a brand and hands each reference to a method that a subclass may override.

    As it stands it changes nothing.
    """

    def __init__(self, domain: str) -> None:
        self._host = host_pattern(domain)
        own = self._host.pattern
        self._absolute = re.compile(
            rf"(?P<scheme>(?:https?:)?//)(?:{own})(?P<port>:\d+)?(?P<rest>[/?#][^\s\"'<>)\\]*)?", re.I
        )

    # What a subclass decides.

    def link(self, link: Link, origin: str) -> str:
        """The address to write in place of `origin` + `link`; `origin` is scheme and host, or empty."""
        return f"{origin}{link}"

    def identity(self, kind: Kind, key: int) -> int:
        """The id to write in place of `key`."""
        return key

    def prose(self, text: str) -> str:
        """Text between tags or in an attribute such as `alt`, without the absolute addresses in it."""
        return text

    def domains(self, text: str) -> str:
        """Text that may hold the domain but no prose, as in a style sheet or an address elsewhere."""
        return text

    def style(self, css: str) -> str:
        """A style sheet or an attribute that may hold colours; addresses in it are seen to already."""
        return css

    # The walk.

    def html(self, html: str) -> str:
        """Walk through a document or a part of one."""
        parts: list[str] = []
        at = 0
        for tag in _TAG.finditer(html):
            parts.append(self._text(html[at : tag.start()]))
            parts.append(self._text(tag[0]) if tag[0].startswith("<!--") else self._tag(tag[0]))
            at = tag.end()
        parts.append(self._text(html[at:]))
        return "".join(parts)

    def css(self, css: str) -> str:
        """Walk through a style sheet."""
        return self._styled(css, self.domains)

    def _tag(self, tag: str) -> str:
        parts: list[str] = []
        at = 0
        for attribute in _ATTRIBUTE.finditer(tag):
            parts += (self._absolutes(tag[at : attribute.start()], self.domains), self._attribute(attribute))
            at = attribute.end()
        parts.append(self._absolutes(tag[at:], self.domains))  # such as an attribute's value without quotes
        return "".join(parts)

    def _attribute(self, match: re.Match[str]) -> str:
        mark, value = ('"', match["double"]) if match["double"] is not None else ("'", match["single"])
        name = match["name"].lower()
        if name in _URL_ATTRIBUTES:
            new = self._url(value)
        elif name == "srcset":
            new = ",".join(self._candidate(part) for part in value.split(","))
        elif name in _ID_ATTRIBUTES:
            new = str(self.identity(_ID_ATTRIBUTES[name], int(value))) if re.fullmatch(r"[0-9]{1,18}", value) else value
        elif name in _COLOUR_ATTRIBUTES:
            new = self._styled(value, self.prose)
        else:
            new = self._text(value)
        return f"{match['before']}{mark}{new}{mark}"

    def _candidate(self, part: str) -> str:
        bare = part.strip()
        url, space, width = bare.partition(" ")
        return part.replace(bare, f"{self._url(url)}{space}{width}") if bare else part

    def _styled(self, css: str, between: Callable[[str], str]) -> str:
        parts: list[str] = []
        at = 0
        for url in _CSS_URL.finditer(css):
            parts += (self._absolutes(css[at : url.start()], between), self._css_url(url))
            at = url.end()
        parts.append(self._absolutes(css[at:], between))
        return self.style("".join(parts))

    def _css_url(self, match: re.Match[str]) -> str:
        return f"url({match['quote']}{self._url(match['url'])}{match['quote']})"

    def _url(self, url: str) -> str:
        bare = url.strip()
        if bare.startswith("/") and not bare.startswith("//"):
            return self.link(Link.parse(bare), "")
        if absolute := self._absolute.fullmatch(bare):
            return self._own(absolute)
        return self._absolutes(url, self.domains)  # an address elsewhere may still name ours: `?back=https://...`

    def _own(self, absolute: re.Match[str]) -> str:
        origin = f"{absolute['scheme']}{absolute['host']}{absolute['port'] or ''}"
        return self.link(Link.parse(absolute["rest"] or ""), origin)

    def _text(self, text: str) -> str:
        return text if not text or text.isspace() else self._absolutes(text, self.prose)

    def _absolutes(self, text: str, between: Callable[[str], str]) -> str:
        parts: list[str] = []
        at = 0
        for absolute in self._absolute.finditer(text):
            parts += (between(text[at : absolute.start()]), self._own(absolute))
            at = absolute.end()
        parts.append(between(text[at:]))
        return "".join(parts)


@dataclass(slots=True)
class References:
    """What some HTML refers to, each once: ids, slugs and paths."""

    products: set[int] = field(default_factory=set)
    categories: set[int] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    media: set[str] = field(default_factory=set)


class _Collector(HtmlWalk):
    def __init__(self, domain: str, found: References) -> None:
        super().__init__(domain)
        self._found = found

    def link(self, link: Link, origin: str) -> str:
        if isinstance(link.key, int):
            self.identity(link.kind, link.key)
        elif link.kind == "page":
            self._found.pages.add(link.key)
        elif link.kind == "media":
            self._found.media.add(link.key)
        return super().link(link, origin)

    def identity(self, kind: Kind, key: int) -> int:
        if key != NOWHERE:
            (self._found.products if kind == "product" else self._found.categories).add(key)
        return key


def references(domain: str, *documents: str) -> References:
    """What these documents of the brand with that domain refer to."""
    found = References()
    collector = _Collector(domain, found)
    for document in documents:
        collector.html(document)
        if "url(" in document:
            collector.css(document)
    return found


def mentions(domain: str, text: str, *, except_below: str = "") -> list[str]:
    """The hosts in a text that are `domain` or below it.

    Args:
        except_below: a domain whose own hosts do not count: a clone may live below its source, as `eu.ember.example`.
    """
    own = f".{except_below}"
    hosts = (match["host"].lower() for match in host_pattern(domain).finditer(text))
    return [host for host in hosts if not (except_below and f".{host}".endswith(own))]


class CloneRewriter(HtmlWalk):
    """Makes the source's HTML and CSS the clone's own.

    Attributes:
        links: how many links and references by id were changed so far.
        names: how many mentions of the brand's name.
        nowhere: how many links had an id or media path that the source does not have (see `NOWHERE`).
        colours: how many colours.
    """

    def __init__(
        self,
        *,
        domains: tuple[str, str],
        names: tuple[str, str],
        palettes: tuple[Mapping[str, str], Mapping[str, str]],
        products: Mapping[int, int],
        categories: Mapping[int, int],
        media: Mapping[str, str],
    ) -> None:
        """Each pair and each map leads from the source's to the clone's."""
        super().__init__(domains[0])
        self._domains = domains
        old_name, self._new_name = (escape(name) for name in names)
        # As HTML may write it: `&` also bare, apostrophes and quotation marks also as they are.
        self._spellings = {old_name, names[0], escape(names[0], quote=False)}
        either = "|".join(re.escape(spelling) for spelling in sorted(self._spellings, key=len, reverse=True))
        # One pattern for both, so that a name is not looked for in a domain that was just written.
        self._own_text = re.compile(
            rf"{self._host.pattern}|(?<![\w.@/-])(?P<name>{either})(?![\w-]|\.\w)", re.IGNORECASE
        )
        self._maps: dict[Kind, Mapping[int, int]] = {"product": products, "category": categories}
        self._media = media
        self._palettes = palettes
        self._recolouring = Recolouring(*palettes)
        self.links = self.names = self.nowhere = 0

    @property
    def colours(self) -> int:
        return self._recolouring.changed

    def link(self, link: Link, origin: str) -> str:
        new = link
        home = self._host.sub(self._domain, origin)
        if origin and home == origin:  # below the new domain already, so none of the source's
            return f"{origin}{link}"
        if isinstance(link.key, int):
            new = replace(link, key=self._mapped(link.kind, link.key))
        elif link.kind == "media":
            path = self._media.get(link.key)
            self.nowhere += path is None
            new = replace(link, key=path if path is not None else str(NOWHERE))
        else:
            new = replace(link, key=self._host.sub(self._domain, link.key))
        new = replace(new, tail=self._absolutes(new.tail, self.domains))  # such as `?back=https://...`
        before, after = f"{origin}{link}", f"{home}{new}"
        self.links += before != after
        return after

    def identity(self, kind: Kind, key: int) -> int:
        new = self._mapped(kind, key)
        self.links += new != key
        return new

    def prose(self, text: str) -> str:
        return self._own_text.sub(lambda match: self._mention(match, self._new_name), text)

    def domains(self, text: str) -> str:
        return self._host.sub(self._bare_domain, text)

    def style(self, css: str) -> str:
        return self._recolouring.text(css)

    def plain(self, text: str) -> str:
        """Text that is not HTML, such as a title: addresses, domain and name, the name as it is."""
        name = unescape(self._new_name)
        return self._absolutes(text, lambda part: self._own_text.sub(lambda match: self._mention(match, name), part))

    def value(self, value: object) -> object:
        """A setting's JSON value: every text in it, and colours where it holds a palette."""
        if isinstance(value, str):
            return self.style(self.plain(value))
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            if value == self._palettes[0]:
                changed = {role: colour for role, colour in self._palettes[1].items() if value.get(role) != colour}
                self._recolouring.changed += len(changed)
                return {**value, **changed}
            return {key: self.value(item) for key, item in value.items()}
        return value

    def _mention(self, match: re.Match[str], name: str) -> str:
        if match["name"] is None:
            return self._bare_domain(match)
        if match["name"] not in self._spellings:  # the same letters in another case are another word
            return match[0]
        self.names += 1
        return name

    def _mapped(self, kind: Kind, key: int) -> int:
        new = self._maps[kind].get(key)
        self.nowhere += new is None
        return NOWHERE if new is None else new

    def _bare_domain(self, match: re.Match[str]) -> str:
        new = self._domain(match)
        self.links += new != match[0]
        return new

    def _domain(self, match: re.Match[str]) -> str:
        old, new = self._domains
        # A host below the new domain is the new brand's already, where that lives below the old one.
        if new.endswith("." + old) and f".{match['host'].lower()}".endswith("." + new):
            return match[0]
        return f"{match['sub']}{new}"


class Localiser(HtmlWalk):
    """Makes a brand's HTML and CSS work below this site: own addresses lead to its pages here."""

    def __init__(self, domain: str, address: Callable[[Link], str]) -> None:
        """`address` gives the address here of what a link refers to; unescaped, without the link's tail."""
        super().__init__(domain)
        self._address = address

    def link(self, link: Link, origin: str) -> str:
        at = min((at for at in (link.tail.find("?"), link.tail.find("#")) if at >= 0), default=len(link.tail))
        return escape(self._address(link)) + link.tail[at:]

"""The rewriting of a brand's HTML and CSS."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apps.firebrand.links import CloneRewriter, HtmlWalk, Link, Localiser, mentions, references
from apps.firebrand.palettes import PRESETS, Recolouring

OLD, NEW = "ember.example", "frost.test"
PICTURE, COPY = "firebrand/ember/products/a b.jpg", "firebrand/frost/products/a b.jpg"


def rewriter(new: str = NEW, names: tuple[str, str] = ("Ember & Oak", "Frost <3")) -> CloneRewriter:
    return CloneRewriter(
        domains=(OLD, new),
        names=names,
        palettes=(PRESETS["ember"], PRESETS["fjord"]),
        products={1: 101, 12: 112},
        categories={7: 207},
        media={PICTURE: COPY},
    )


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="https://ember.example/p/1-alva">', '<a href="https://frost.test/p/101-alva">'),
        ("<a href='http://EMBER.example/p/12'>", "<a href='http://frost.test/p/112'>"),
        (
            '<a href="//www.ember.example/c/7-lamps?a=1&amp;b=2#c">',
            '<a href="//www.frost.test/c/207-lamps?a=1&amp;b=2#c">',
        ),
        ('<a href="/p/1-alva">', '<a href="/p/101-alva">'),
        ('<a href="https://ember.example:8443/pages/about">', '<a href="https://frost.test:8443/pages/about">'),
        ('<a href="https://ember.example">', '<a href="https://frost.test">'),
        ('<a href="https://ember.example?x=1">', '<a href="https://frost.test?x=1">'),
        (
            '<img src="/media/firebrand/ember/products/a%20b.jpg">',
            '<img src="/media/firebrand/frost/products/a%20b.jpg">',
        ),
        (
            '<img srcset="/media/firebrand/ember/products/a%20b.jpg 1x, https://ember.example/p/1 2x">',
            '<img srcset="/media/firebrand/frost/products/a%20b.jpg 1x, https://frost.test/p/101 2x">',
        ),
        ('<i data-product="12" data-category="7">', '<i data-product="112" data-category="207">'),
        ("<p>write to hi@ember.example.</p>", "<p>write to hi@frost.test.</p>"),
        ('<a href="mailto:hi@ember.example?subject=x">', '<a href="mailto:hi@frost.test?subject=x">'),
        ("<p>Ember &amp; Oak, Ember & Oak</p>", "<p>Frost &lt;3, Frost &lt;3</p>"),
        ('<img alt="by Ember &amp; Oak">', '<img alt="by Frost &lt;3">'),
        ("see https://ember.example/p/1-alva, now", "see https://frost.test/p/101-alva, now"),
        ("<!-- https://ember.example/c/7 -->", "<!-- https://frost.test/c/207 -->"),
        (
            "<p style=\"color:#A8452C;background:url('/media/firebrand/ember/products/a%20b.jpg')\">",
            "<p style=\"color:#1f5673;background:url('/media/firebrand/frost/products/a%20b.jpg')\">",
        ),
        ('<a href="/login?back=https://ember.example/p/1#x">', '<a href="/login?back=https://frost.test/p/101#x">'),
        (
            '<a href="https://to.test/?u=https://ember.example/p/1">',
            '<a href="https://to.test/?u=https://frost.test/p/101">',
        ),
        ('<circle fill="#e9a23b"/>', '<circle fill="#e07a5f"/>'),
    ],
)
def test_a_reference_becomes_the_clones_own(html: str, expected: str) -> None:
    assert rewriter().html(html) == expected


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://other.example/p/1-alva">',
        '<a href="https://notember.example/p/1">',
        '<a href="https://ember.example.org/p/1">',
        "<p>notember.example, ember.example.org, ember-example, my-ember.example</p>",
        "<p>Embers & Oak, Ember & Oaks, EMBER & OAK</p>",
        '<p class="p/1" data-price="12">#a8452c is a colour</p>',
        '<a href="#top">1 < 2 and 3 > 2</a>',
        '<a href="p/1-alva">',
        '<a href="javascript:void(0)">',
    ],
)
def test_what_is_not_the_brands_own_stays_as_it_is(html: str) -> None:
    walker = rewriter()
    assert walker.html(html) == html
    assert (walker.links, walker.names, walker.nowhere, walker.colours) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "html", ['<a href="/p/99-gone">', '<a href="https://ember.example/c/99-gone">', '<i data-product="99">']
)
def test_a_link_to_nothing_keeps_leading_nowhere_and_never_to_another_brands_row(html: str) -> None:
    walker = rewriter()
    assert "99" not in walker.html(html)
    assert walker.nowhere == 1


def test_a_clone_below_its_sources_domain_is_told_from_it() -> None:
    walker = rewriter("eu.ember.example")
    html = '<a href="https://ember.example/p/1-alva">ember.example</a> <b>https://eu.ember.example/p/9</b>'
    written = walker.html(html)
    assert written == (
        '<a href="https://eu.ember.example/p/101-alva">eu.ember.example</a> <b>https://eu.ember.example/p/9</b>'
    )
    assert mentions(OLD, written, except_below="eu.ember.example") == []
    assert mentions(OLD, written) == ["eu.ember.example"] * 3


def test_a_name_is_not_looked_for_in_a_domain_that_was_just_written() -> None:
    walker = rewriter("ember-two.test", names=("ember", "Two"))
    assert walker.html("<p>ember: ember.example</p>") == "<p>Two: ember-two.test</p>"


def test_a_titles_name_is_not_escaped() -> None:
    assert rewriter().plain("About Ember & Oak at ember.example") == "About Frost <3 at frost.test"


def test_a_style_sheet_is_recoloured_by_role_and_its_addresses_rewritten() -> None:
    css = (
        ".shop { --brand-primary: #a8452c; --brand-accent:#A8452C; color: #2a2421 }\n"
        ".hero { background: url(https://ember.example/media/firebrand/ember/products/a%20b.jpg) } /* ember.example */"
    )
    assert rewriter().css(css) == (
        ".shop { --brand-primary: #1f5673; --brand-accent:#e07a5f; color: #1c2530 }\n"
        ".hero { background: url(https://frost.test/media/firebrand/frost/products/a%20b.jpg) } /* frost.test */"
    )


def test_a_setting_is_rewritten_in_depth() -> None:
    value = {"from": "Ember & Oak <hi@ember.example>", "list": ["https://ember.example/p/1"], "n": 3, "yes": True}
    assert rewriter().value(value) == {
        "from": "Frost <3 <hi@frost.test>",
        "list": ["https://frost.test/p/101"],
        "n": 3,
        "yes": True,
    }


def test_a_setting_that_is_the_palette_becomes_the_new_one() -> None:
    assert rewriter().value(dict(PRESETS["ember"])) == PRESETS["fjord"]


def test_two_roles_of_one_colour_part_where_the_role_is_named() -> None:
    recolouring = Recolouring({"primary": "#111111", "accent": "#111111"}, {"primary": "#222222", "accent": "#333333"})
    text = recolouring.text("--brand-primary:#111111; --brand-accent: #111111; color:#111111; x:#1111112")
    assert text == "--brand-primary:#222222; --brand-accent: #333333; color:#222222; x:#1111112"
    assert recolouring.changed == 3


def test_references_names_each_thing_once() -> None:
    found = references(
        OLD,
        '<a href="/p/1-x"><i data-product="1" data-category="7"></i></a><img src="//ember.example/media/a%20b.jpg">',
        ".x { background: url(/media/c.jpg) }",
        '<a href="https://other.example/p/5"></a><a href="/pages/about#x"></a><a href="/p/0-gone"></a>',
    )
    assert found.products == {1}
    assert found.categories == {7}
    assert found.media == {"a b.jpg", "c.jpg"}
    assert found.pages == {"about"}


def test_a_localiser_leads_own_links_to_this_site_and_leaves_others() -> None:
    localiser = Localiser(OLD, lambda link: f"/here/{link.kind}/{link.key}?x&y")
    html = '<a href="https://ember.example/p/1-alva#s">a</a> <a href="https://other.example/p/1">b</a> ember.example'
    assert localiser.html(html) == (
        '<a href="/here/product/1?x&amp;y#s">a</a> <a href="https://other.example/p/1">b</a> ember.example'
    )


addresses = st.one_of(
    st.builds(lambda n, slug: f"/p/{n}-{slug}", st.integers(0, 10**12), st.sampled_from(["", "alva", "a-b"])),
    st.builds(lambda n: f"/c/{n}", st.integers(0, 10**12)),
    st.builds(lambda path: f"/media/{path}", st.text("abc/._-", min_size=1)),
    st.builds(lambda slug: f"/pages/{slug}", st.text(string.ascii_lowercase, min_size=1)),
    st.text(string.printable),
)


@given(addresses, st.sampled_from(["", "?a=1", "#top", "?a=1&amp;b=2#x"]))
def test_reading_and_writing_an_address_is_the_identity_on_ids(address: str, tail: str) -> None:
    link = Link.parse(address + tail)
    assert Link.parse(str(link)) == link


pieces = st.one_of(
    st.sampled_from(
        [
            '<a href="https://ember.example/p/1-alva">',
            "<!-- x -->",
            "<b>",
            "</b>",
            "ember.example",
            "Ember & Oak",
            "url(/media/x)",
            '"',
            "'",
            "<",
            ">",
            "https://ember.example/p/1",
        ]
    ),
    st.text(max_size=8),
)


@given(st.lists(pieces).map("".join))
def test_a_walk_that_changes_nothing_is_the_identity_on_any_text(text: str) -> None:
    assert HtmlWalk(OLD).html(text) == text
    assert HtmlWalk(OLD).css(text) == text


@given(st.lists(pieces).map("".join))
@example("<https://ember.example/p/1>")
@example("<a href=https://ember.example/p/1>")
def test_no_rewritten_text_mentions_the_old_domain(text: str) -> None:
    assert mentions(OLD, rewriter().html(text)) == []

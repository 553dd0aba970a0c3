"""Prose out of MediaWiki: a page written by hand, whose text is known whole."""

import bz2

import pytest
from neurondynamics.data.mediawiki import read_articles, strip_markup

PAGE = """\
{{Infobox settlement
| name = Testville
| image = [[File:Inner.jpg|thumb]]
}}
{{pp-move-indef}}
[[File:Testville.jpg|thumb|left|250px|The ''harbour'' of [[Testville]].<ref>A caption.</ref>]]
'''Testville''' ({{IPAc-en|t|ɛ|s|t}}; {{lang|de|''Teststadt''}}) is a [[city (place)|city]] in
[[Nowhere]],<ref name="a">{{cite book|title=No}}</ref> about {{convert|12|km|mi|abbr=on}} from the
sea.<ref name="a"/> It has 3&nbsp;000 people&mdash;and a [http://example.org/ port].__NOTOC__

== History ==
{{Main|History of Testville}}
Founded in 1900,<!-- by whom? --> it grew.{{citation needed|date=May 2020}} The ''Harbour'''s wall
is old.
{| class="wikitable"
! Year !! People
|-
| 1900 || 10
|}
<blockquote>We built it [[stone]] by stone.</blockquote>

Its people are:
* [[Alice|Ms Alice]] was the mayor.
** Bob was not.
# One.
; Term
: An indented line is left out.

The area is <math>a^2</math> for every house.

A paragraph with {{unbalanced markup is left out.

=== Notes ===
{{reflist}}
<gallery>
File:A.jpg|A picture of the wall.
</gallery>

[[Category:Cities]]
[[Category:Tests| ]]
[[de:Teststadt]]
"""

PROSE = """\
Testville (Teststadt) is a city in Nowhere, about 12 km from the sea. It has 3 000 people—and a \
port.

Founded in 1900, it grew. The Harbour's wall is old.

We built it stone by stone."""


def test_a_page_becomes_its_prose():
    assert strip_markup(PAGE) == PROSE


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("", ""),
        ("#REDIRECT [[Elsewhere]]", ""),
        ("Text [[:Category:Dogs]] stays.", "Text Category:Dogs stays."),
        ("One line\nand the next.", "One line and the next."),
        ("A<br />B is ''bold'' or '''italic'''.", "A B is bold or italic."),
        ("Its code is <code>a b</code> here.", "Its code is a b here."),
        ("Twice escaped &amp;nbsp; stays whole.", "Twice escaped stays whole."),
        ("{{quote|They said it.|Someone}}", "They said it."),
        ("It lies at {{coord|1|2}}. Nobody knows.", ""),
        ("Letters such as {{angle|a}}, {{angle|b}}, {{angle|c}} are left out.", ""),
        ("See https://example.org now.", "See now."),
    ],
)
def test_small_pieces(wikitext, expected):
    assert strip_markup(wikitext) == expected


HEAD = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><namespaces>
<namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace>
<namespace key="0" /></namespaces></siteinfo>
"""


def page(title, text, namespace=0, more=""):
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>1</id>{more}"
        f"<revision><id>2</id><text>{text}</text></revision></page>\n"
    )


DUMP = (
    HEAD
    + page("One", "[[Datei:A.jpg|mini|Ein Bild.]] Eins ist da. [[Kategorie:Zahl]]")
    + page("Uno", "#REDIRECT [[One]]", more='<redirect title="One" />')
    + page("Talk:One", "Some talk.", namespace=1)
    + page("Two", "* a list of nothing else")
    + "</mediawiki>"
)


@pytest.mark.parametrize("name", ["dump.xml", "dump.xml.bz2"])
def test_articles_of_a_dump(tmp_path, name):
    path = tmp_path / name
    content = DUMP.encode()
    path.write_bytes(bz2.compress(content) if name.endswith("bz2") else content)
    assert list(read_articles(path)) == [("One", "Eins ist da."), ("Two", "")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.xml.bz2", bz2.compress(DUMP.encode())[:-9], "not a MediaWiki dump, or a damaged one"),
        ("cut.xml", DUMP.encode()[:-20], "not a MediaWiki dump, or a damaged one"),
        ("empty.xml", b"", "not a MediaWiki dump, or a damaged one"),
        ("none.xml", (HEAD + "</mediawiki>").encode(), "holds no article of a MediaWiki dump"),
    ],
)
def test_a_bad_dump_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        list(read_articles(path))

"""Plain prose out of a MediaWiki dump: its articles, read as a stream, with the markup stripped."""

from __future__ import annotations

import bz2
import html
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import mwparserfromhell
from mwparserfromhell import nodes

from neurondynamics.data.formats import BZIP2, taking, what_is

FILE_NAMESPACES = {"-2", "6", "14"}  # media, files and categories: their links show no words
FILE_PREFIXES = frozenset({"media", "file", "image", "category"})

# Tags that hold no prose. `ref` and `gallery` would otherwise leave notes and captions in the text.
HIDDEN_TAGS = {
    *("ref", "references", "table", "gallery", "imagemap", "timeline", "score", "templatedata"),
    *("source", "syntaxhighlight", "pre", "ol", "ul", "dl", "div", "center"),
}
FORMULA_TAGS = {"math", "chem", "ce", "hiero"}

# Templates that show one of their arguments, found inside sentences: the first, or the last.
SHOWN_FIRST = {"nowrap", "nihongo", "smaller", "small", "vanchor", "quote", "angbr"}
SHOWN_LAST = {"lang", "transl", "transliteration"}
MEASURES = {"convert", "cvt"}
FORMULA_TEMPLATES = {"chem", "chem2", "frac", "sfrac", "math", "mvar"}

FORMULA = "\0"  # stands where a formula was, until its paragraph is left out
NOT_PROSE = tuple("*#:;|!{}")  # lists, indented lines, and rows of tables that did not close
LEFTOVER = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|==|</?[a-zA-Z]|<!--|\bthumb\|")
INCOMPLETE = re.compile(
    rf"{FORMULA}|^[,;.)]|[,(]\s*,|\b(?:such as,|(?:as|at|of|the|or|and)\.(?:\s|$))"
)
SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*$")


def read_articles(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield title and prose of each article of a dump (XML, plain or as bzip2), in its order.

    Pages outside the main namespace and redirects are no articles. The prose of a page that only
    points to others, such as a disambiguation, is empty.

    Raises
    ------
    ValueError : naming the file, if it is damaged, is no MediaWiki dump, or holds no article.
    """
    found = False
    with taking(path, "a MediaWiki dump", BZIP2):
        for title, wikitext, prefixes in _read_pages(path):
            found = True
            yield title, strip_markup(wikitext, prefixes)
    if not found:
        raise ValueError(f"{path}: holds no article of a MediaWiki dump")


def _read_pages(path: str | Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield title, wikitext and this wiki's prefixes of links to files and categories."""
    prefixes = FILE_PREFIXES
    with bz2.open(path) if what_is(path) == BZIP2 else open(path, "rb") as file:
        for _, element in ElementTree.iterparse(file):
            element.tag = element.tag.rpartition("}")[2]  # the export version is in the namespace
            if element.tag == "namespace" and element.get("key") in FILE_NAMESPACES:
                prefixes |= {(element.text or "").casefold()}
            elif element.tag == "page":
                if element.findtext("ns") == "0" and element.find("redirect") is None:
                    wikitext = element.findall("revision/text")[-1].text or ""
                    yield element.findtext("title") or "", wikitext, prefixes
                element.clear()  # a dump need not fit into memory


def strip_markup(wikitext: str, file_prefixes: frozenset[str] = FILE_PREFIXES) -> str:
    """Return the paragraphs of prose in a page, separated by blank lines.

    Headings, lists, tables, references, files and most templates are left out, and so is a
    paragraph that would not read as prose without them: one with a formula, one that only leads to
    a list, or one whose markup is unbalanced.

    Parameters
    ----------
    file_prefixes : case-folded prefixes of links to files and categories.
    """
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    text = html.unescape(_shown(code, file_prefixes))
    # Bold and italics; an apostrophe before a final s is an apostrophe.
    text = re.sub(r"'{2,}(?!s\b)|''", "", text)
    text = re.sub(r"__[A-Z]+__", "", text)
    paragraphs = [_tidy(paragraph) for paragraph in _paragraphs(text)]
    return "\n\n".join(filter(_is_prose, paragraphs))


def _shown(code: mwparserfromhell.wikicode.Wikicode, prefixes: frozenset[str]) -> str:
    """Return what a reader sees of parsed wikitext, with the marks of lists still there."""
    parts = []
    for node in code.nodes:
        match node:
            case nodes.Text():
                parts.append(node.value)
            case nodes.HTMLEntity():
                parts.append(node.normalize() or "")
            case nodes.Heading():
                parts.append("\n\n")
            case nodes.Wikilink():
                parts.append(_shown_link(node, prefixes))
            case nodes.ExternalLink() if node.brackets and node.title is not None:
                parts.append(_shown(node.title, prefixes))
            case nodes.Tag():
                parts.append(_shown_tag(node, prefixes))
            case nodes.Template():
                parts.append(_shown_template(node, prefixes))
    return "".join(parts)


def _shown_link(link: nodes.Wikilink, prefixes: frozenset[str]) -> str:
    title = str(link.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and prefix.strip().casefold() in prefixes:
        return ""
    if link.text is not None:
        return _shown(link.text, prefixes)
    if re.match(r"[a-z]{2,3}(-[a-z-]+)?:", title):  # the same article in another language
        return ""
    return title.removeprefix(":")


def _shown_tag(tag: nodes.Tag, prefixes: frozenset[str]) -> str:
    name = str(tag.tag).strip().casefold()
    if tag.wiki_markup in ("*", "#", ":", ";"):
        return tag.wiki_markup
    if name in FORMULA_TAGS:
        return FORMULA
    if name == "br":
        return " "
    if name in HIDDEN_TAGS or tag.contents is None:
        return ""
    inside = _shown(tag.contents, prefixes)
    return f"\n\n{inside}\n\n" if name == "blockquote" else inside


def _shown_template(template: nodes.Template, prefixes: frozenset[str]) -> str:
    name = str(template.name).strip().casefold()
    values = [parameter.value for parameter in template.params if not parameter.showkey]
    if name in FORMULA_TEMPLATES:
        return FORMULA
    if name in MEASURES and len(values) > 1:  # {{convert|5|km|mi}} shows "5 km"
        return " ".join(_shown(value, prefixes).strip() for value in values[:2])
    if values and name in SHOWN_FIRST:
        return _shown(values[0], prefixes)
    if values and (name in SHOWN_LAST or name.startswith("lang-")):
        return _shown(values[-1], prefixes)
    return ""


def _paragraphs(text: str) -> Iterator[str]:
    """Join the lines of each paragraph; blank lines and lines that are not prose end one."""
    lines: list[str] = []
    for line in [*map(str.strip, text.split("\n")), ""]:
        if line and not line.startswith(NOT_PROSE):
            lines.append(line)
        elif lines:
            yield " ".join(lines)
            lines = []


def _tidy(paragraph: str) -> str:
    """Close the gaps that what was left out leaves in a sentence."""
    text = " ".join(paragraph.split())
    text = re.sub(r"([(\[])[\s,;:]+", r"\1", text)
    text = re.sub(r"[\s,;]+([)\]])", r"\1", text)
    text = text.replace("()", "").replace("[]", "")
    text = re.sub(r"\s+([,.;:!?])(?=\s|$)", r"\1", text)
    return " ".join(text.split())


def _is_prose(paragraph: str) -> bool:
    return (
        SENTENCE_END.search(paragraph) is not None
        and LEFTOVER.search(paragraph) is None
        and INCOMPLETE.search(paragraph) is None
    )

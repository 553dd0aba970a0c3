"""Reading YAML as its author meant it: the one reader of configurations, overlays and the schema.

Types are those of YAML 1.2 (its core schema): 2e-5 is a number, only true and false are truth
values, and dates, off and 1:30 are texts. Keys are texts as they stand in the file. A number knows
its spelling until `typed` has seen where it stands, since a text of digits may be a name. JSON is
YAML too. Only light modules are imported: every job parses the configuration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEEPEST = 200  # levels of a file
MOST = 1_000_000  # values of a file, those that an alias repeats counted each time
LONG = 50_000  # characters; what is shorter cannot be so deep that the parser in C fails
DIGITS = 400  # of a whole number
TAG = "tag:yaml.org,2002:"
PLAIN = {  # what is no text, and how it may begin
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
        r"|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": ("<<", ["<"]),
}
BASES = {"0o": 8, "0x": 16}
TAKEN = ("null", "bool", "str", "seq", "map")  # constructors of PyYAML's that serve


class Whole(int):
    """A whole number that knows its `spelling`."""


class Real(float):
    """A number that knows its `spelling`."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(TAG) in TAKEN
    }


def _number(loader: _Loader, node: yaml.Node) -> Whole | Real:
    text = loader.construct_scalar(node)
    if len(text) > DIGITS:
        raise _mistake(f"a number of {len(text)} digits", node)
    try:
        if node.tag == f"{TAG}int":
            value = Whole(int(text, BASES.get(text[:2], 10)))
        else:
            value = Real(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except ValueError as error:
        raise _mistake(f"{text!r} is no number", node) from error
    lost = value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
    if lost or (math.isinf(value) and "inf" not in text.lower()):
        raise _mistake(f"{text} is beyond the numbers that a computer tells apart", node)
    value.spelling = text
    return value


for _kind, (_pattern, _starts) in PLAIN.items():
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _starts)
for _kind in ("int", "float"):
    _Loader.add_constructor(TAG + _kind, _number)


def _mistake(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def parse(text: str, place: str) -> Any:
    """Return what a text in YAML says; its numbers keep their spelling until they are `typed`.

    Raises ValueError, with `place` and line, if it is no YAML, names a key twice, repeats itself
    without end, or is deeper or larger than any configuration.
    """
    loader = None
    try:
        if len(text) > LONG:
            _refuse_deep(text)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _examine(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        said = ": ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{place}{line}: {said}") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:  # such as a control character
        raise ValueError(f"{place}: no YAML ({' '.join(str(error).split())})") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_deep(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _mistake(f"nested in more than {DEEPEST} levels", event)


def _examine(node: yaml.Node, seen: dict[int, int], depth: int = 0) -> int:
    """Return the number of values of a node, aliases resolved, and make texts of its keys."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if depth > DEEPEST:
        raise _mistake(f"nested in more than {DEEPEST} levels", node)
    if id(node) not in seen:
        seen[id(node)] = MOST + 1  # until it is known: a node that holds itself has no end
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _name_keys(node)
            parts = [value for _, value in node.value]
        seen[id(node)] = 1 + sum(_examine(part, seen, depth + 1) for part in parts)
    if seen[id(node)] > MOST:
        raise _mistake("its aliases repeat it too often, or without end", node)
    return seen[id(node)]


def _name_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _mistake("a key is a text, not a list or a mapping", key)
        if key.tag == f"{TAG}merge":
            continue
        key.tag = f"{TAG}str"
        line = key.start_mark.line + 1
        if key.value in lines:
            raise _mistake(
                f"the key {key.value} stands twice, first in line {lines[key.value]}", key
            )
        lines[key.value] = line


def read_text(path: Path) -> str:
    """Return the text of a file. Raises ValueError, naming it, if it is not in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8."
        ) from error


def read_yaml(path: Path) -> Any:
    """Return what a file in YAML says, its numbers with their spelling. Raises as `parse`."""
    return parse(read_text(path), str(path))


def plain(value: Any) -> Any:
    """Return a value whose numbers have forgotten their spelling."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Whole):
        return int(value)
    return float(value) if isinstance(value, Real) else value

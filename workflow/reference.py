"""Write the reference of all configuration keys, workflow/studies/keys.md, from the schema.

python workflow/reference.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

from neurondynamics.study.loader import plain, read_yaml  # noqa: E402
from neurondynamics.study.merging import RULE  # noqa: E402
from neurondynamics.study.schema import kinds_in, read_schema, resolved  # noqa: E402

FILE = ROOT / "workflow" / "studies" / "keys.md"
SHARED = ("source", "selection")  # parts that stand in several places, and are described once
LONGEST = 40  # characters of a default that is shown
HEAD = """# All keys of a configuration

Made from `workflow/schemas/config.schema.yaml` by `python workflow/reference.py`; do not edit it.

*Default* is what `config.yaml` has; a key without one that is not *needed* can be left out. NAME is
a name of your choice.

{rule} Such keys are marked **whole**.
"""


def reference() -> str:
    """Return the text of the reference."""
    schema, default = read_schema(), plain(read_yaml(ROOT / "config.yaml"))
    parts = [(key, resolved(part), default.get(key)) for key, part in schema["properties"].items()]
    parts += [(f"a {name}", resolved({"$ref": f"#/$defs/{name}"}), None) for name in SHARED]
    return HEAD.format(rule=RULE) + "".join(section(*part) for part in parts)


def section(title: str, part: dict, default: Any) -> str:
    """Return what is said of a key at the top, or of a part that several keys have."""
    shared = title.startswith("a ")
    lines = ["", f"## {title}" if shared else f"## `{title}`", ""]
    rows = list(keys("", part, default)) if "properties" in part or is_named(part) else []
    if rows:
        names = f" The default study has {', '.join(f'`{name}`' for name in default or ())}."
        lines += [part["description"] + (names if default and is_named(part) else ""), ""]
        lines += ["| key | values | default | what it is |", "|---|---|---|---|"]
        lines += [
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
        ]
    else:
        what = values(part)
        lines += [f"{part['description']} {what[0].upper()}{what[1:]}; default {shown(default)}."]
    top = title.removeprefix("a ")
    for key, inner in mappings("", part):
        lines += kinds(f"{top}.{key}" if key else top, inner)
    return "\n".join(lines) + "\n"


def is_named(part: dict) -> bool:
    """Return whether the keys of a mapping are names of one's choice."""
    return isinstance(part.get("additionalProperties"), dict) and "where" not in part


def inside(key: str, part: dict) -> tuple[str, dict]:
    """Return the mapping that a part of the schema holds, below names and lists, and its key."""
    while True:
        if is_named(part) and "if" not in part["additionalProperties"]:
            key, part = f"{key}.NAME".lstrip("."), resolved(part["additionalProperties"])
        elif is_named(part):  # one or the other: the list is the one that is described further
            key, part = f"{key}.NAME".lstrip("."), resolved(part["additionalProperties"]["else"])
        elif part.get("type") == "array" and "properties" in resolved(part.get("items")):
            key, part = f"{key}[]", resolved(part["items"])
        else:
            return key, part


def mappings(key: str, part: dict) -> Iterator[tuple[str, dict]]:
    """Yield every mapping within a part of the schema, with its key."""
    key, part = inside(key, part)
    if "properties" in part:
        yield key, part
        for name, inner in part["properties"].items():
            if not shared_name(inner) and name != "where":
                yield from mappings(f"{key}.{name}".lstrip("."), resolved(inner))


def shared_name(part: dict) -> str:
    name = part.get("$ref", "").rpartition("/")[2]
    return name if name in SHARED else ""


def keys(key: str, part: dict, default: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for every key within a part of the schema."""
    inner_key, inner = inside(key, part)
    named = inner_key != key
    for name, defined in inner.get("properties", {}).items():
        path = f"{inner_key}.{name}".lstrip(".")
        full = resolved(defined)
        value = default.get(name) if isinstance(default, dict) and not named else None
        said = full.get("description", "")
        marks = ["needed"] if name in inner.get("required", ()) else []
        marks += ["**whole**"] if name in inner.get("whole_by", ()) else []
        marks = f" ({', '.join(marks)})" if marks else ""
        shared = shared_name(defined)
        what = f"[a {shared}](#a-{shared})" if shared else values(full, name, inner)
        yield f"`{path}`{marks}", what, "" if value is None else shown(value), said
        if not shared and name != "where":
            yield from keys(path, full, value)


def values(part: dict, name: str = "", within: dict | None = None) -> str:
    """Return what values a key takes."""
    for table in kinds_in(within or {}):
        if table.get("by") == name:
            return ", ".join(f"`{kind}`" for kind in table["of"])
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    for several in ("anyOf", "oneOf"):
        if several in part:
            return " or ".join(values(resolved(one)) for one in part[several])
    if part.get("type") == "array":
        return f"a list, each {values(resolved(part.get('items', {})))}"
    if part.get("type") == "object" or "properties" in part:
        return "a mapping"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "`true`, `false`"}
    return (kind.get(part.get("type"), "a text") + limits(part)).strip()


def limits(part: dict) -> str:
    """Return between what a number lies."""
    said = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return "".join(f" {sign} {part[key]}" for key, sign in said.items() if key in part)


def shown(value: Any) -> str:
    """Return a default, or of a long one its names or that there is one."""
    if isinstance(value, dict):
        text = ", ".join(value)
    else:
        text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text}`" if len(text) <= LONGEST else "in `config.yaml`"


def kinds(key: str, part: dict) -> Iterator[str]:
    """Yield the tables of what each kind takes."""
    for table in kinds_in(part):
        if not any(table["of"].values()):
            continue
        heading = f"`{table['by']}`" if "by" in table else "one of"
        yield from ("", f"What goes with each kind of `{key}`:", "")
        yield from (f"| {heading} | needs | may have |", "|---|---|---|")
        rows = {f"`{kind}`": needs for kind, needs in table["of"].items()}
        rows |= {table["none"]["called"]: table["none"]} if "none" in table else {}
        for kind, taken in rows.items():
            needs = ", ".join(f"`{name}`" for name in taken.get("needs", ()))
            yield f"| {kind} | {needs} | {', '.join(optional(taken))} |"


def optional(kind: dict) -> Iterator[str]:
    for name in kind.get("may", ()):
        only = ", ".join(kind.get("values", {}).get(name, ()))
        yield f"`{name}` ({only})" if only else f"`{name}`"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")

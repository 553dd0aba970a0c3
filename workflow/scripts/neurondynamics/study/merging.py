"""How an overlay is laid on a study: by RULE, which the pages for users quote.

The schema says what it comes to: `whole_by` lists the keys of a mapping that name what it is,
`whole_with` those that together are a mapping of its own, and `whole_unless: shared` stands where
names replace each other unless one is there. Only light modules are imported: every job parses the
configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from neurondynamics.study.schema import kinds_in, part_of

RULE = (
    "An overlay changes the study key by key, and `null` drops a key; but where it names another "
    "origin of a source or dataset, or another version of one, another dataset of a split, another "
    "method of pairs or of a direction, another kind of scorer, another source of the model or of "
    "a version, or gives a dataset's `files` with their `format`, it takes the place of what is "
    "there as a whole; and `tuned` that names none of the versions there replaces them all."
)


def merge(base: dict, overlay: Mapping, schema: dict) -> dict:
    """Return a study with an overlay laid on it; neither is changed, and no null is left.

    `base` has no nulls; `schema` is the part of the schema that describes both.
    """
    result = dict(base)
    for name, value in overlay.items():
        there = base.get(name)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(there, dict):
            part = part_of(schema, name)
            whole = _replaces(there, value, part)
            result[name] = without_nulls(value) if whole else merge(there, value, part)
        else:
            result[name] = without_nulls(value)
    return result


def merged(layers: list[dict], schema: dict) -> dict:
    """Return the study that layers make, the first of them whole and each other laid on it.

    What the overlays name stands first, in their order: so it does in tables and figures.
    """
    study = reduce(lambda study, layer: merge(study, layer, schema), layers, {})
    return _in_order(study, [*layers[1:], *layers[:1]])


def _in_order(study: dict, layers: list[Mapping]) -> dict:
    """Return a study whose keys stand as layers name them, at any depth of mappings."""
    ordered = {}
    for name in dict.fromkeys(name for layer in layers for name in layer):
        if name in study:
            value = study[name]
            within = [layer[name] for layer in layers if isinstance(layer.get(name), Mapping)]
            ordered[name] = _in_order(value, within) if isinstance(value, dict) else value
    return ordered


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that are null, at any depth of mappings."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _replaces(base: dict, overlay: Mapping, schema: dict) -> bool:
    if schema.get("whole_unless") == "shared":
        named = [name for name, value in overlay.items() if value is not None]
        return bool(named) and not base.keys() & overlay.keys()
    together = schema.get("whole_with")
    if together and all(overlay.get(key) is not None for key in together):
        return True
    another = any(_names_another(base, overlay, key, schema) for key in schema.get("whole_by", ()))
    return another or _of_another_kind(base, overlay, schema)


def _of_another_kind(base: dict, overlay: Mapping, schema: dict) -> bool:
    """Tell whether a key that says of what kind a mapping is stands in place of another one."""
    for table in kinds_in(schema):
        kinds = () if "by" in table else table["of"]
        there = [kind for kind in kinds if kind in base]
        named = [kind for kind in kinds if overlay.get(kind) is not None]
        if there and named and not {*there} & {*named}:
            return True
    return False


def _names_another(base: dict, overlay: Mapping, key: str, schema: dict) -> bool:
    value, there = overlay.get(key), base.get(key)
    if isinstance(value, Mapping) and isinstance(there, dict):
        return _replaces(there, value, part_of(schema, key))
    return value is not None and value != there

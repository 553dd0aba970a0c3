"""How an overlay is laid on a study.

The rule: an overlay changes the study key by key, and `null` drops a key; but where it names
another source, dataset, format, method or kind than is there (a key that the schema lists as
`whole_by`), gives a dataset's files with their format (`whole_with`), or names under `tuned`
versions none of which is there (`whole_unless: shared`), what it says takes the place of what is
there as a whole.

Only light modules are imported: every job parses the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

from neurondynamics.study.schema import part_of


def merge(base: dict, overlay: Mapping, schema: dict) -> dict:
    """Return a study with an overlay laid on it; neither is changed, and no null is left.

    `base` has no nulls; `schema` is the part of the schema that describes both. What the overlay
    names stands first, in its order: so it does in tables and figures.
    """
    result = {}
    for name, value in overlay.items():
        there = base.get(name)
        if isinstance(value, Mapping) and isinstance(there, dict):
            part = part_of(schema, name)
            whole = _replaces(there, value, part)
            result[name] = without_nulls(value) if whole else merge(there, value, part)
        elif value is not None:
            result[name] = without_nulls(value)
    return result | {name: value for name, value in base.items() if name not in overlay}


def merged(layers: list[dict], schema: dict) -> dict:
    """Return the study that layers make, the first of them whole and each other laid on it."""
    return reduce(lambda study, layer: merge(study, layer, schema), layers, {})


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that are null, at any depth of mappings."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _replaces(base: dict, overlay: Mapping, schema: dict) -> bool:
    if schema.get("whole_unless") == "shared":
        return bool(overlay) and not base.keys() & overlay.keys()
    together = schema.get("whole_with")
    if together and all(overlay.get(key) is not None for key in together):
        return True
    return any(_names_another(base, overlay, key, schema) for key in schema.get("whole_by", ()))


def _names_another(base: dict, overlay: Mapping, key: str, schema: dict) -> bool:
    value, there = overlay.get(key), base.get(key)
    if isinstance(value, Mapping) and isinstance(there, dict):
        return _replaces(there, value, part_of(schema, key))
    return value is not None and value != there

"""Selections of neurons and heads as a configuration states them: what does not go together.

What each kind of selection takes is in the schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import PurePath

from neurondynamics.limits import NO_COSINE, OF_NEURONS, layers_of

TABLES = (".csv", ".parquet")
LISTED = {"neurons": "neuron", "heads": "head", "key_values": "key/value head"}


def layers_out_of_range(stated: dict, key: str, number: int) -> Iterator[str]:
    """Yield the line of a range of layers, [first, last], that a model of so many has not; thirds
    are there in every model."""
    named = stated.get("layers")
    if isinstance(named, list) and not named[0] <= named[1] < number:
        yield f"{key}.layers: {named} is no range of layers 0 to {number - 1}"


def has_heads(selection: dict) -> bool:
    """Return whether a selection names attention heads."""
    selection = selection.get("random", selection)
    named = selection.get("of"), *selection.get("modules", ())
    return "heads" in selection or bool({"heads", "all", "blocks", "attention"} & set(named))


def _top(selection: dict, key: str, model: dict) -> Iterator[str]:
    """More units than there are, where that is known, and what heads do not have."""
    of, top = selection.get("of", "neurons"), selection["top"]
    kind = {"all": "units", "blocks": "units"}.get(of, of)
    among = layers_of(selection.get("layers", (0, model["layers"] - 1)), model["layers"])
    heads = model.get("heads", math.inf)  # perhaps not known before the model is fetched
    each = {"neurons": model["neurons"], "heads": heads, "units": model["neurons"] + heads}[kind]
    each = math.inf if of == "blocks" else each  # the configuration counts no key/value heads
    if isinstance(top, int) and top > len(among) * each:
        where = "these layers have" if "layers" in selection else "the model has"
        yield f"{key}.top: {top} {kind}, but {where} only {len(among) * each}"
    if "seed" in selection and selection.get("by") != "random":
        yield f"{key}.seed: top draws nothing but by: random"
    if kind != "neurons":
        yield from (f"{key}.{name}: {OF_NEURONS[name]}" for name in OF_NEURONS if name in selection)
        if selection.get("by", "cosine") == "cosine":
            yield f"{key}.by: {NO_COSINE}"


def _listed(selection: dict, key: str, kind: str, unit: str, model: dict) -> Iterator[str]:
    """Pairs of layer and neuron, head or key/value head, whichever the `unit` is: those that are
    not there, where that is known, and those that are listed twice."""
    layers, number = model["layers"], model.get(kind)
    each = "" if number is None else f", each with {unit}s 0 to {number - 1}"
    listed: set[tuple[int, int]] = set()
    for index, (layer, one) in enumerate(selection.get(kind, [])):
        place = f"{key}.{kind}[{index}]"
        if layer >= layers or (number is not None and one >= number):
            yield (
                f"{place}: there is no {unit} {one} in layer {layer}; the model has layers 0 to "
                f"{layers - 1}{each}"
            )
        if (layer, one) in listed:
            yield f"{place}: the {unit} {one} in layer {layer} is listed twice"
        listed.add((layer, one))


def contradictions(selection: dict, key: str, model: dict) -> Iterator[str]:
    """Yield what does not go together in a selection, a line each."""
    if "top" in selection:
        yield from _top(selection, key, model)
    yield from layers_out_of_range(selection, key, model["layers"])
    widths = {"key_value_width", "head_width"} <= set(model)
    shared = model["key_value_width"] // model["head_width"] if widths else None
    there = model | ({"key_values": shared} if widths else {})
    for kind, unit in LISTED.items():
        yield from _listed(selection, key, kind, unit, there)
    if "file" in selection and PurePath(selection["file"]).suffix not in TABLES:
        yield f"{key}.file: neurons are read from a file in {' or '.join(TABLES)}"
    if "random" in selection:
        yield from contradictions(selection["random"], f"{key}.random", model)
        if "random" in selection["random"]:
            yield f"{key}.random: random neurons cannot match random ones"

"""What only transplants do, as a configuration states it, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator

from neurondynamics.limits import PARTS_OF_LAYERS

WITHIN = {  # parts that hold others
    "attention": ("queries", "keys", "values", "attention_output"),
    "mlp": ("mlp_input", "mlp_output"),
}


def contradictions(step: dict, key: str) -> Iterator[str]:
    """Yield what of a step goes with a transplant alone, or does not go with it, a line each."""
    if step["operation"] != "transplant":
        named = _names_key_values(step.get("select", {}))
        if named:
            yield (
                f"{key}.select.{named}: keys and values are no inputs of the output projection, "
                "which other operations change; a transplant moves their weights"
            )
        return
    parts = step.get("parts", [])
    if ("select" in step) == ("parts" in step):
        yield f"{key}: a transplant moves either selected units or parts; name one of select, parts"
    if "layers" in step and "parts" not in step:
        yield f"{key}.layers: goes with parts; a selection has layers of its own"
    if "layers" in step and not set(PARTS_OF_LAYERS) & set(parts):
        yield f"{key}.layers: none of these parts lies in a layer"
    for whole, inside in WITHIN.items():
        held = [part for part in inside if part in parts]
        if whole in parts and held:
            yield f"{key}.parts: {whole} has {' and '.join(held)} in it already; leave one out"
    if step.get("factor") == 0:
        yield f"{key}.factor: 0 moves nothing; 1 is as far as the other model, which none means"
    if "positions" in step:
        yield f"{key}.positions: weights that are moved act at every position; leave it out"


def _names_key_values(selection: dict) -> str | None:
    """Return by which key, if any, a selection names key/value heads."""
    if "random" in selection:
        named = _names_key_values(selection["random"])
        return named and f"random.{named}"
    if "key_values" in selection.get("modules", ()):
        return "modules"
    return "key_values" if "key_values" in selection else None

"""Predict for every unit how much nearer to the other model it would bring a model, if it alone
were moved there: neurons, heads and key/value heads, by activations and by weights.

Both models read what the tuned one wrote after analysis prompts.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging

import numpy as np
import pandas as pd
import torch
from neurondynamics.data.draws import drawn
from neurondynamics.data.store import ActivationStore, common_to
from neurondynamics.data.tables import write_parquet
from neurondynamics.limits import GRADIENT_TEXTS, MODULES_OF
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.generation import sorted_batches
from neurondynamics.lm.gradients import (
    Batch,
    divergence,
    moved_toward,
    patch_gradients,
    transplant_gradients,
)
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.stored import StoredWeights
from neurondynamics.lm.unit_weights import OfUnits, sum_over_weights
from neurondynamics.runtime import progress
from transformers import PreTrainedModel

logger = logging.getLogger("measure_gradients")


def measure_gradients(
    base_model: str,
    tuned_model: str,
    tuned: list[str],
    output: str,
    *,
    reading: Reading,
    prompts: int,
    points: int,
    seed: int,
) -> None:
    """Write a row per unit, columns `module layer unit parameters weight_change
    gradient_transplant gradient_patch`.

    `tuned` are the stores of the tuned model on its own text, of which `prompts` are drawn with
    `seed`, or all are taken where there are not as many. `weight_change` is ‖ΔW‖ over the weights
    of the unit, which are `parameters`. The gradients are by how much KL would fall, in nats per
    token; those of weights are averaged over `points` of the path between the models. A key/value
    head is not patched. Raises ValueError for stores of another model, and for gradients that are
    not finite.
    """
    made = {"base_weights": weight_digest(base_model), "tuned_weights": weight_digest(tuned_model)}
    wanted = {"state": "tuned", "weight_digest": made["tuned_weights"]}
    with ActivationStore(tuned, wanted) as store:
        texts, continuations = store.prompts, store.continuations()
        made |= common_to(store)
    rows = drawn(len(texts), prompts, seed)
    read = encode_prompts(load_tokenizer(base_model), [texts[i] for i in rows], reading.max_tokens)
    pairs = list(zip(read, [continuations[i] for i in rows], strict=True))
    base, followed = reading.load(base_model), reading.load(tuned_model)
    table, batches = units_of(base, followed), batches_of(pairs, followed)
    written, kl = of_patches(base, followed, batches)
    table["gradient_patch"] = in_rows(written) / len(pairs)
    del base  # so that no more than two models are held
    moved = OfUnits.zeros(dissect(followed))
    for place, weight in zip(*np.polynomial.legendre.leggauss(points), strict=True):
        part = (place + 1) / 2
        between = moved_toward(reading.load(base_model), followed, part)
        found = of_transplants(between, StoredWeights(base_model), followed, batches, part)
        moved = OfUnits(*(a + weight / 2 * b for a, b in zip(moved, found, strict=True)))
        del between
    table["gradient_transplant"] = in_rows(moved) / len(pairs)
    patched = table["module"] != MODULES_OF["key_values"]
    for name, there in (("gradient_patch", patched), ("gradient_transplant", slice(None))):
        if not np.isfinite(table.loc[there, name]).all():
            raise ValueError(f"{name}: gradients are NaN or infinite; set model.dtype to float32")
        logger.info("%s: %.4g nats per token in all", name, table[name].sum())
    logger.info("between the models lie %.4g nats per token", kl / len(pairs))
    made |= {"kl": kl / len(pairs), "prompts": len(pairs), "points": points}
    write_parquet(output, table, made)


def units_of(base: PreTrainedModel, tuned: PreTrainedModel) -> pd.DataFrame:
    """Return a row per unit with the number of its weights and how far they were moved."""
    theirs = dict(tuned.named_parameters(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in base.named_parameters()}

    def squared(parameter: torch.Tensor) -> torch.Tensor:
        return (theirs[names[id(parameter)]].double() - parameter.double()).square()

    anatomy = dissect(base)
    moved, held = (sum_over_weights(anatomy, each) for each in (squared, torch.ones_like))
    places = [
        pd.DataFrame(np.ndindex(*numbers.shape), columns=["layer", "unit"], dtype="int32").assign(
            module=MODULES_OF[kind]
        )
        for kind, numbers in held._asdict().items()
    ]
    table = pd.concat(places, ignore_index=True)[["module", "layer", "unit"]]
    table["parameters"] = in_rows(held).astype("int64")
    return table.assign(weight_change=np.sqrt(in_rows(moved)))


def in_rows(found: OfUnits) -> np.ndarray:
    """Return the numbers of all units one after the other, (units,)."""
    return torch.cat([numbers.flatten() for numbers in found]).numpy()


Batches = list[tuple[Batch, torch.Tensor]]  # of texts, with what the tuned model makes of them


def batches_of(pairs: list[tuple], followed: PreTrainedModel) -> Batches:
    """Return prompts and continuations in batches, with the tuned model's last hidden states."""
    found = []
    for rows in sorted_batches([len(p) + len(c) for p, c in pairs], GRADIENT_TEXTS):
        batch = Batch.of(*zip(*(pairs[i] for i in rows), strict=True), followed.device)
        with torch.no_grad():
            found.append((batch, batch.read(followed)))
    return found


def of_patches(
    base: PreTrainedModel, followed: PreTrainedModel, batches: Batches
) -> tuple[OfUnits, float]:
    """Return what patches are predicted to do, summed over texts, and the KL between the models."""
    nothing, kl = OfUnits.zeros(dissect(base)), 0.0
    neurons, heads = nothing.neurons, nothing.heads
    for batch, target in progress(batches, "gradients of activations"):
        found = patch_gradients(base, followed, batch)
        neurons, heads = neurons + found[0].sum(0), heads + found[1].sum(0)
        with torch.no_grad():
            kl += float(divergence(followed, target, base, batch.read(base), batch)[0].sum())
    return OfUnits(neurons, heads, torch.full_like(nothing.key_values, torch.nan)), kl


def of_transplants(
    between: PreTrainedModel,
    start: StoredWeights,
    followed: PreTrainedModel,
    batches: Batches,
    part: float,
) -> OfUnits:
    """Return what transplants are predicted to do by a model between the two, summed over texts."""
    total = OfUnits.zeros(dissect(between))
    for batch, target in progress(batches, f"gradients of weights at {part:.2f} of the way"):
        found = transplant_gradients(between, start, followed, target, batch)
        total = OfUnits(*(a + b for a, b in zip(total, found, strict=True)))
    return total


if __name__ == "__main__":
    measure_gradients(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        tuned=snakemake.input.tuned,
        output=snakemake.output.units,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )

"""Predict for every unit how much nearer to the other model it would bring a model, if it alone
were moved there: neurons, heads and key/value heads, by activations and by weights.

Both models read what the tuned one wrote after analysis prompts.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from neurondynamics.data.draws import drawn
from neurondynamics.data.store import ActivationStore, common_to
from neurondynamics.data.tables import write_parquet
from neurondynamics.interventions.transplant import Transplant, transplanted
from neurondynamics.limits import GRADIENT_TEXTS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.generation import sorted_batches
from neurondynamics.lm.gradients import Batch, divergence, patch_gradients, transplant_gradients
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.lm.unit_weights import OfUnits, sum_over_weights
from neurondynamics.runtime import progress
from transformers import PreTrainedModel

logger = logging.getLogger("measure_gradients")

MODULES = {"neurons": "mlp", "heads": "attention", "key_values": "key_values"}


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
    table, kl = units_of(base, followed), 0.0
    for name, found, apart in gradients(base, followed, pairs, points):
        table[name] = in_rows(found) / len(pairs)
        kl = kl if apart is None else apart / len(pairs)
        if not table.loc[table["module"] != "key_values", name].map(np.isfinite).all():
            raise ValueError(f"{name}: gradients are NaN or infinite; load the model in float32")
        logger.info("%s: %.4g nats per token in all, of %.4g", name, table[name].sum(), kl)
    write_parquet(output, table, made | {"kl": kl, "prompts": len(pairs), "points": points})


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
            module=MODULES[kind]
        )
        for kind, numbers in held._asdict().items()
    ]
    table = pd.concat(places, ignore_index=True)[["module", "layer", "unit"]]
    table["parameters"] = in_rows(held).astype("int64")
    return table.assign(weight_change=np.sqrt(in_rows(moved)))


def in_rows(found: OfUnits) -> np.ndarray:
    """Return the numbers of all units one after the other, (units,)."""
    return torch.cat([numbers.flatten() for numbers in found]).numpy()


def gradients(
    base: PreTrainedModel, followed: PreTrainedModel, pairs: list[tuple], points: int
) -> Iterator[tuple[str, OfUnits, float | None]]:
    """Yield, by name, what is predicted, summed over texts; with the first, the summed KL itself.

    The points of the path are those of Gauss and Legendre, so that what all weights of the models
    are predicted to do is what they do, but for what is of a high degree in how far they moved.
    """
    batches = list(sorted_batches([len(p) + len(c) for p, c in pairs], GRADIENT_TEXTS))
    everything = Transplant.whole(len(dissect(base).layers))
    nothing = OfUnits.zeros(dissect(base))

    def batch_of(rows: np.ndarray) -> Batch:
        return Batch.of(*zip(*(pairs[i] for i in rows), strict=True), base.device)

    def patched(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        neurons, heads = patch_gradients(base, followed, batch_of(rows))
        return neurons.sum(0), heads.sum(0)

    total, nodes = nothing, zip(*np.polynomial.legendre.leggauss(points), strict=True)
    kl = 0.0
    for place, weight in nodes:
        between = transplanted(base, followed, everything, (place + 1) / 2)

        def moved(rows: np.ndarray, between: PreTrainedModel = between) -> OfUnits:
            batch = batch_of(rows)
            with torch.no_grad():
                target = batch.read(followed)
            return transplant_gradients(between, (base, followed), target, batch)

        doing = f"gradients at {(place + 1) / 2:.2f} of the way"
        for some in in_batches(batches, moved, doing):
            total = OfUnits(*(a + weight / 2 * b for a, b in zip(total, some, strict=True)))
    yield "gradient_transplant", total, None
    neurons, heads = nothing.neurons, nothing.heads
    for some in in_batches(batches, patched, "gradients of activations"):
        neurons, heads = neurons + some[0], heads + some[1]
    lacking = torch.full_like(nothing.key_values, torch.nan)
    for batch in map(batch_of, batches):
        with torch.no_grad():
            kl += divergence(followed, batch.read(followed), base, batch.read(base), batch)[0].sum()
    yield "gradient_patch", OfUnits(neurons, heads, lacking), kl


def in_batches(batches: list[np.ndarray], work, doing: str) -> Iterator:
    """Yield what some work gives of each batch, or of its parts where memory runs out."""
    for batch in progress(batches, doing):
        yield from (found for _, found in halving(batch, work))


if __name__ == "__main__":
    measure_gradients(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        tuned=snakemake.input.tuned,
        output=snakemake.output.units,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )

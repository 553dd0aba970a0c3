"""Split what tuning does to the final residual stream's projection on the direction into what the
embeddings, each layer's attention and each layer's MLP add to it.

The residual stream before the final norm is the sum of the embeddings and of every attention and
MLP output, so its projection is the sum of theirs. Both models read texts that the stores hold, and
all is averaged over the new-token positions, as everywhere.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import gc
import logging

import numpy as np
import pandas as pd
import torch
from neurondynamics.analysis.directions import read_direction
from neurondynamics.analysis.statistics import Statistics, share
from neurondynamics.data.store import ActivationStore, check_same_prompts
from neurondynamics.data.tables import write_csv
from neurondynamics.lm.anatomy import Anatomy, dissect
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.generation import read_continuations, sorted_batches
from neurondynamics.lm.hooks import PositionMeans, final_residual_sites, hooked
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.lm.weights import unit
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
SUMS = ("attention_all", "mlp_all", "total", "residue")  # rows behind the parts


def decompose_shift(
    base_model: str,
    tuned_model: str,
    direction: str,
    base: list[str],
    tuned: list[str],
    output: str,
    *,
    reading: Reading,
    statistics: Statistics,
) -> None:
    """Write the CSV file `output`, one row per component.

    `base` and `tuned` are the stores of each model on its own text: they say which texts are read.
    Rows: `embeddings`, `attention` and `mlp` of every `layer`, their sums `attention_all` and
    `mlp_all`, `total` (measured at the last block's output) and `residue` (the total without the
    parts: rounding). Columns: the projection in `base`, `tuned_on_base_text` and `tuned`, in units
    of the residual stream; with bootstrap intervals over prompts `shift` (base − tuned), its
    `share` in the total shift, and both with the suffix `_same_text` (base − tuned on base text).

    Raises ValueError if the stores hold different prompts, if an output is not finite, or if the
    parts do not add up to the total.
    """
    along = torch.from_numpy(unit(read_direction(direction).vector))  # (d_model,)
    of_base = {"state": "base", "weight_digest": weight_digest(base_model)}
    of_tuned = {"state": "tuned", "weight_digest": weight_digest(tuned_model)}
    with ActivationStore(base, of_base) as first, ActivationStore(tuned, of_tuned) as second:
        check_same_prompts(first, second)
        prompts = first.prompts
        texts = {"base": first.continuations(), "tuned": second.continuations()}

    def read(model: str, **runs: str) -> dict[str, np.ndarray]:
        gc.collect()  # a model stays in memory until Python finds the circles in it
        lm = reading.load(model)
        encoded = encode_prompts(load_tokenizer(model), prompts, reading.max_tokens)
        return {
            run: project_parts(lm, along, encoded, texts[text], reading.batch_size, run)
            for run, text in runs.items()
        }

    # one model after the other: only one is held in memory
    runs = read(base_model, base="base")
    runs |= read(tuned_model, tuned_on_base_text="base", tuned="tuned")
    write_csv(output, tabulate(runs, statistics))


def project_parts(
    lm,
    along: torch.Tensor,
    prompts: list[list[int]],
    continuations: list[list[int]],
    batch_size: int,
    run: str,
) -> np.ndarray:
    """Return the projection of every site of `residual_sites` per prompt, (prompts, sites) float64.

    A projection is the mean over the prompt's new-token positions. Raises ValueError where the
    parts do not add up, within TOLERANCE of the sum of their magnitudes.
    """
    sites = residual_sites(dissect(lm))
    projections = np.empty((len(prompts), len(sites)))
    lengths = [len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)]

    def read(rows: np.ndarray) -> np.ndarray:
        recorder = PositionMeans(sites)
        with hooked(recorder.hooks):
            read_continuations(
                lm, [prompts[i] for i in rows], [continuations[i] for i in rows], recorder
            )
        return (recorder.means() @ along).T.numpy()  # (rows, sites)

    for batch in progress(list(sorted_batches(lengths, batch_size)), f"reading as {run}"):
        for rows, along_direction in halving(batch, read):
            projections[rows] = along_direction
    check_sums(projections, run)
    return projections


def residual_sites(anatomy: Anatomy) -> list[tuple[torch.nn.Module, str]]:
    """Return where the residual stream and its parts are read.

    The embeddings, then attention and MLP of each layer, then the sum of all: the input of the
    first block, the outputs of attention and MLP, and the output of the last block.
    """
    added = [module for layer in anatomy.layers for module in (layer.attention, layer.mlp)]
    return [
        (anatomy.layers[0].block, "input"),
        *((module, "output") for module in added),
        *final_residual_sites(anatomy),
    ]


def check_sums(projections: np.ndarray, run: str) -> None:
    """Raise ValueError unless, for each prompt, all sites but the last add up to the last.

    The residue is compared with the sum of the parts' magnitudes and not with the total, in which
    parts cancel: a projection that happens to be near zero is not measured any worse.
    """
    finite = np.isfinite(projections).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"the residual stream is NaN or infinite for prompt {row} of {run}")
    parts, total = projections[:, :-1], projections[:, -1]
    relative = np.abs(total - parts.sum(axis=1)) / np.abs(parts).sum(axis=1)  # (prompts,)
    worst = int(np.argmax(relative))
    logger.info("%s: largest residue of a prompt %.1e of its parts", run, relative[worst])
    if relative[worst] > TOLERANCE:
        raise ValueError(
            f"embeddings, attention and MLPs do not add up to the residual stream: {run}, prompt "
            f"{worst}, leaves {relative[worst]:.1e} of their magnitudes, more than {TOLERANCE:.0e}."
            " Read in float32; if that does not help, the attention or mlp of this family's row of "
            "FAMILIES in lm/families.py is not what its blocks add to the residual stream"
        )


def tabulate(runs: dict[str, np.ndarray], statistics: Statistics) -> pd.DataFrame:
    """Return the table of `decompose_shift` from the projections of its three runs."""
    columns = {name: with_sums(projections) for name, projections in runs.items()}
    layers = (runs["base"].shape[1] - 2) // 2
    table = pd.DataFrame(
        {
            "component": ["embeddings", *(["attention", "mlp"] * layers), *SUMS],
            "layer": pd.array(
                [None, *np.repeat(np.arange(layers), 2), *([None] * len(SUMS))], dtype="Int64"
            ),
            "n": len(runs["base"]),
            **{name: projections.mean(axis=0) for name, projections in columns.items()},
        }
    )
    for suffix, after in {"": "tuned", "_same_text": "tuned_on_base_text"}.items():
        shifts = columns["base"] - columns[after]  # (prompts, rows)
        estimate = statistics.estimate(_shifts_and_shares, [shifts])
        for index, name in enumerate(("shift", "share")):
            table[name + suffix] = estimate.value[index]
            table[f"{name}{suffix}_low"] = estimate.low[index]
            table[f"{name}{suffix}_high"] = estimate.high[index]
        *_, total, residue = estimate.value[0]
        logger.info("shift%s: total %.4g, residue %.1e", suffix, total, residue)
        if abs(residue) > TOLERANCE * abs(total):
            logger.warning("the residue exceeds %.0e of the total shift%s", TOLERANCE, suffix)
    return table


def _shifts_and_shares(means: np.ndarray) -> np.ndarray:  # (resamples, rows) -> (…, 2, rows)
    return np.stack([means, share(means, means[:, -2:-1])], axis=1)  # the total is the last but one


def with_sums(projections: np.ndarray) -> np.ndarray:
    """Put SUMS behind the parts: (prompts, sites) to (prompts, sites + 3)."""
    parts, total = projections[:, :-1], projections[:, -1]
    attention, mlp = parts[:, 1::2].sum(axis=1), parts[:, 2::2].sum(axis=1)
    return np.column_stack([parts, attention, mlp, total, total - parts.sum(axis=1)])


if __name__ == "__main__":
    decompose_shift(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        direction=snakemake.input.direction,
        base=snakemake.input.base,
        tuned=snakemake.input.tuned,
        output=snakemake.output.table,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        statistics=Statistics(**snakemake.params.statistics),
    )

"""Run an experiment's interventions on one shard of the texts: generations and neutral text.

The model is loaded once, and the prompts' prefill is computed once per batch for all interventions
that leave the prompts' positions untouched. Generations are edited at the positions that each edit
names; neutral text is read edited at every position, for perplexity and for how far the model is
from what it was. A patch that is paired takes its activations from the other model, which reads the
same tokens a step ahead.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.data.tables import write_parquet
from neurondynamics.interventions.edits import at_all_positions, followed_sites
from neurondynamics.interventions.plans import Plan, resolve_interventions
from neurondynamics.interventions.stage import Stage
from neurondynamics.interventions.texts import Item, read_texts
from neurondynamics.interventions.units import Units
from neurondynamics.limits import TOKENS_PER_PASS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import decode_continuations
from neurondynamics.lm.fidelity import Divergence, divergences
from neurondynamics.lm.generation import (
    NonFiniteError,
    decode,
    part_of_shard,
    prefill,
    shard_batches,
    sorted_batches,
)
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.lm.stored import StoredWeights
from neurondynamics.lm.teacher_forcing import read_windows
from neurondynamics.runtime import file_digest, progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LOSSES = {"intervention": "str", "window": "int64", "nll": "float64", "tokens": "int64"}
LOSSES |= {"neutral_kl": "float64", "overlap": "float64", "neurons": "int64", "heads": "int64"}


def run_experiment(
    model: str,
    followed_model: str | None,
    neurons: str,
    heads: str,
    directions: list[str],
    prompts: str,
    corpus: str,
    continued: str | None,
    choices: list[str],
    generations: str,
    losses: str,
    *,
    experiment: str,
    shard: str,
    reading: Reading,
    interventions: dict[str, list[dict] | dict],
    state: str,
    measures: Sequence[str],
    passages: dict[str, int],
    new_tokens: int,
    seed: int,
    measured: str | None = None,
) -> None:
    """Write a shard's continuations of prompts and passages, and its losses of text windows.

    `interventions` and `choices` are as `resolve_interventions` takes them. `state` is the model's,
    `base` or `tuned`; `followed_model` is the folder of the other one, if any is needed;
    `directions` are the files of what is subtracted, by their names. Of `measures`, behaviour asks
    for continuations of the prompts, damage for those of passages and for losses. The passages are
    those of `continued`, or else of `corpus`; `passages` holds the keys of the configuration's
    `corpus` that give numbers and widths. Raises ValueError, naming the intervention, for a
    selection that does not fit the model and for outputs that are not finite.
    """
    tokenizer = load_tokenizer(model)
    lm = reading.load(model)
    units = Units.read(dissect(lm), neurons, heads, weight_digest(model), state, measured)
    along = read_vectors(directions)
    plans = resolve_interventions(units, interventions, choices, along, experiment)
    follow = any(followed_sites(plan.edits) for plan in plans.values())
    move = any(plan.moves for plan in plans.values())
    leader = reading.load(followed_model) if follow else None
    stage = Stage(lm, leader, StoredWeights(followed_model) if move else None)
    items, windows = read_texts(
        tokenizer,
        *(prompts, corpus, continued or corpus),
        max_tokens=reading.max_tokens,
        measures=measures,
        new_tokens=new_tokens,
        seed=seed,
        **passages,
    )
    batches = shard_batches([len(item.tokens) for item in items], reading.batch_size, shard)
    written = generate_all(stage, tokenizer, plans, items, batches, new_tokens)
    measured = measure_losses(stage, plans, windows, shard)
    made = {"experiment": experiment, "shard": shard, "weight_digest": weight_digest(model)}
    made |= {"prompt_set_digest": file_digest(prompts), "corpus": file_digest(corpus)}
    for table, path in ((written, generations), (measured, losses)):
        table.insert(0, "experiment", experiment)
        write_parquet(path, table, made)


def generate_all(
    stage: Stage,
    tokenizer: PreTrainedTokenizerBase,
    interventions: dict[str, Plan],
    items: list[Item],
    batches: list[np.ndarray],
    new_tokens: int,
) -> pd.DataFrame:
    """Continue the items of some batches under every intervention."""
    tables = []
    work = partial(continue_batch, stage, interventions, items, new_tokens)
    for batch in progress(batches, f"generating under {len(interventions)} interventions"):
        for rows, by_intervention in halving(batch, work):
            some = [items[i] for i in rows]
            read = [item.tokens for item in some]
            tables += [
                pd.DataFrame(
                    {
                        "intervention": name,
                        "corpus": [item.corpus for item in some],
                        "prompt_id": [item.number for item in some],
                        "prompt": [item.text for item in some],
                        "text": decode_continuations(tokenizer, read, new),
                        "tokens": new,
                        "reference_tokens": [item.reference for item in some],
                    }
                )
                for name, new in by_intervention.items()
            ]
    return in_order(pd.concat(tables).sort_values(["corpus", "prompt_id"]), interventions)


def continue_batch(
    stage: Stage,
    interventions: dict[str, Plan],
    items: list[Item],
    new_tokens: int,
    rows: np.ndarray,
) -> dict[str, list[list[int]]]:
    """Return some items' new tokens under each intervention; the prefill serves all that it can."""
    batch = [items[i] for i in rows]
    prompts = [item.tokens for item in batch]
    shared = prefill(stage.model, prompts, stage.leader)
    continued = {}
    named = progress(interventions.items(), f"{len(batch)} texts", total=len(interventions))
    for name, plan in named:
        moved, edits, prefix = stage.moved(plan), plan.edits, shared
        leader, everywhere = stage.follows(edits), at_all_positions(edits)
        try:
            if everywhere or plan.moves:
                with moved.applied(everywhere):
                    prefix = prefill(moved.model, prompts, leader)
            with moved.applied(edits):
                continued[name] = decode(moved.model, prefix, new_tokens, leader=leader).lists()
        except NonFiniteError as error:
            culprit = batch[error.rows[0]]
            raise ValueError(
                f"{name}: {error}; {culprit.corpus} {culprit.number}: {culprit.text!r}"
            ) from error
    return continued


def measure_losses(
    stage: Stage, interventions: dict[str, Plan], windows: np.ndarray, shard: str
) -> pd.DataFrame:
    """Return a row per intervention and text window of a shard, with the columns LOSSES.

    `nll` is the summed loss of the window's tokens but its first, which are `tokens`, and
    `neutral_kl` the mean over them of KL(unedited ‖ edited) of the next token, in nats. `windows`
    (windows, width) are all of the study's; a shard that is left without any gets none.
    """
    width = windows.shape[1]
    passes = list(sorted_batches([width] * len(windows), max(1, TOKENS_PER_PASS // width)))
    passes = part_of_shard(passes, shard)
    unedited = read_unedited(stage.model, windows, passes)
    tables = [pd.DataFrame(columns=list(LOSSES))]
    groups = by_weights(interventions) if passes else []
    for plans in progress(groups, f"reading neutral text under {len(interventions)} interventions"):
        moved = stage.moved(next(iter(plans.values())))
        work = partial(compare_windows, stage, moved, plans, windows, unedited)
        for rows, by_intervention in (done for batch in passes for done in halving(batch, work)):
            for name, found in by_intervention.items():
                columns = {"intervention": name, "window": rows, "nll": -found.log_probability}
                columns |= {"tokens": width - 1, "neutral_kl": found.kl}
                columns |= {"overlap": interventions[name].overlap}
                touched = dict(zip(("neurons", "heads"), interventions[name].count(), strict=True))
                tables.append(pd.DataFrame(columns | touched))
        del moved, work  # a copy is gone before the next one is made
    return in_order(pd.concat(tables[1:] or tables).astype(LOSSES), interventions)


def read_unedited(
    model: PreTrainedModel, windows: np.ndarray, passes: list[np.ndarray]
) -> dict[int, torch.Tensor]:
    """Return, by window, what a model as it is predicts its tokens by, (width - 1, d_model)."""

    def read(rows: np.ndarray) -> torch.Tensor:
        return read_windows(model, torch.as_tensor(windows[rows])).cpu()  # of all windows

    return {
        number: states
        for batch in passes
        for rows, hidden in halving(batch, read)
        for number, states in zip(rows.tolist(), hidden, strict=True)
    }


def by_weights(interventions: dict[str, Plan]) -> list[dict[str, Plan]]:
    """Part interventions by the weights that they run on: those that move none go together."""
    alike = {name: plan for name, plan in interventions.items() if not plan.moves}
    apart = [{name: plan} for name, plan in interventions.items() if plan.moves]
    return [alike, *apart] if alike else apart


def compare_windows(
    stage: Stage,
    moved: Stage,
    plans: dict[str, Plan],
    windows: np.ndarray,
    unedited: dict[int, torch.Tensor],
    rows: np.ndarray,
) -> dict[str, Divergence]:
    """Return how far plans, whose weights were moved, take a model from itself on some windows."""
    text, hidden = torch.as_tensor(windows[rows]), {}
    for name, plan in plans.items():
        with moved.applied(plan.edits):
            hidden[name] = read_windows(moved.model, text, stage.follows(plan.edits))
    target = torch.stack([unedited[number] for number in rows.tolist()]).to(stage.model.device)
    try:
        return divergences(stage.model, target, moved.model, hidden, text[:, 1:].tolist())
    except NonFiniteError as error:
        raise ValueError(f"{error}; window {rows[error.rows[0]]}") from error


def in_order(table: pd.DataFrame, interventions: dict[str, Plan]) -> pd.DataFrame:
    """Return rows in the order of interventions, and of one as they stand."""
    place = {name: number for number, name in enumerate(interventions)}
    order = table["intervention"].map(place).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


if __name__ == "__main__":
    run_experiment(
        model=snakemake.input.model,
        followed_model=snakemake.input.get("followed_model"),
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
        measured=snakemake.input.get("measured"),
        directions=snakemake.input.get("directions", []),
        prompts=snakemake.input.prompts,
        corpus=snakemake.input.corpus,
        continued=snakemake.input.get("continued"),
        choices=snakemake.input.get("choices", []),
        generations=snakemake.output.generations,
        losses=snakemake.output.losses,
        experiment=snakemake.wildcards.experiment,
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )

"""Run an experiment's interventions on one shard of the texts: generations and token losses.

The model is loaded once, and the prompts' prefill is computed once per batch for all interventions
that leave the prompts' positions untouched. Generations are edited at the positions that each edit
names; token losses, for perplexity, at every position of the text. A patch that is paired takes its
activations from the other model, which reads the same tokens a step ahead.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.data.tables import write_parquet
from neurondynamics.interventions.edits import (
    applied,
    at_all_positions,
    followed_sites,
    listening,
)
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.plans import Plan, resolve_interventions
from neurondynamics.interventions.texts import Item, read_texts
from neurondynamics.interventions.units import Units
from neurondynamics.limits import TOKENS_PER_PASS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.encoding import decode_continuations
from neurondynamics.lm.generation import (
    NonFiniteError,
    decode,
    part_of_shard,
    prefill,
    shard_batches,
    sorted_batches,
    token_losses,
)
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.lm.stored import StoredWeights
from neurondynamics.runtime import file_digest, progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """The model that is edited, and the other one that a paired patch follows, if any does."""

    model: PreTrainedModel
    leader: PreTrainedModel | None
    weights: StoredWeights | None = None  # the other model's, where some are moved

    def moved(self, plan: Plan) -> "Stage":
        """Return the same with the weights moved that a plan moves, in a copy."""
        return replace(self, model=plan.moved(self.model, self.weights))

    def follows(self, edits: Sequence[Edit]) -> PreTrainedModel | None:
        """Return the leader if these edits need it."""
        return self.leader if followed_sites(edits) else None

    @contextmanager
    def applied(self, edits: Sequence[Edit]) -> Iterator[None]:
        """Run the block with edits in force; what they follow is heard as the leader reads it."""
        leader, sites = self.follows(edits), followed_sites(edits)
        heard = None if leader is None else {}
        listen = nullcontext() if leader is None else listening(dissect(leader), sites, heard)
        with listen, applied(dissect(self.model), edits, heard):
            yield


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
    units = Units.read(dissect(lm), neurons, heads, weight_digest(model), state)
    plans = resolve_interventions(
        units, interventions, choices, read_vectors(directions), experiment
    )
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
    table = pd.concat(tables)
    order = table.intervention.map({name: place for place, name in enumerate(interventions)})
    table = table.assign(order=order).sort_values(["order", "corpus", "prompt_id"])
    return table.drop(columns="order").reset_index(drop=True)


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
    """Return the summed loss of each of a shard's text windows under each intervention.

    `windows` (windows, width) are all of the study's; a shard that is left without any gets none.
    """
    width = windows.shape[1]
    passes = list(sorted_batches([width] * len(windows), max(1, TOKENS_PER_PASS // width)))
    passes = part_of_shard(passes, shard)
    numbers = np.concatenate([np.empty(0, int), *passes])

    def measure(name: str, moved: Stage, plan: Plan, rows: np.ndarray) -> np.ndarray:
        text = torch.as_tensor(windows[rows])
        try:
            with moved.applied(plan.edits):
                return token_losses(moved.model, text, stage.follows(plan.edits))
        except NonFiniteError as error:
            raise ValueError(f"{name}: {error}; window {rows[error.rows[0]]}") from error

    parts = []
    for name, plan in progress(interventions.items(), "token losses", total=len(interventions)):
        sums, work = [np.empty(0)], partial(measure, name, stage.moved(plan), plan)
        for batch in passes:
            sums += [nll for _, nll in halving(batch, work)]
        parts.append(
            pd.DataFrame(
                {
                    "intervention": name,
                    "window": numbers,
                    "nll": np.concatenate(sums),
                    "tokens": width - 1,
                    "neurons": plan.count()[0],
                    "heads": plan.count()[1],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    run_experiment(
        model=snakemake.input.model,
        followed_model=snakemake.input.get("followed_model"),
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
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

"""Measure how near interventions bring a model to the other one of the pair.

The other model has continued some prompts; the edited model reads these texts, and so does the
other one, whose activations paired patches take. Nothing is generated. Under interventions that are
named both also read the two texts of pairs that neither tuning nor the choice of neurons has seen:
a margin is log p(chosen) - log p(rejected), summed over tokens.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging
from collections.abc import Callable

import numpy as np
import pandas as pd
from neurondynamics.analysis.directions import read_vectors
from neurondynamics.data.draws import drawn
from neurondynamics.data.provenance import check_made
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.interventions.following import measure_fidelity as read_under
from neurondynamics.interventions.following import measure_margins
from neurondynamics.interventions.plans import Plan, resolve_interventions
from neurondynamics.interventions.units import Units
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import NonFiniteError, part_of_shard, sorted_batches
from neurondynamics.lm.loading import Reading, load_tokenizer, tokenizer_digest, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.lm.shape import check_positions
from neurondynamics.runtime import file_digest, progress
from neurondynamics.tuning.pairs import WRITTEN, Row, length_of_pairs, tokenise_pairs
from transformers import PreTrainedModel

logger = logging.getLogger("measure_fidelity")

COLUMNS = dict.fromkeys(["experiment", "intervention"], "str")
COLUMNS |= dict.fromkeys(["prompt_id", "neurons", "heads", "key_values", "tokens"], "int64")
COLUMNS |= dict.fromkeys(["kl", "agreement", "kl_unedited", "agreement_unedited"], "float64")
COLUMNS |= {"kl_noise": "float64", "overlap": "float64"}
OF_MARGINS = dict.fromkeys(["experiment", "intervention"], "str") | {"pair_id": "int64"}
OF_MARGINS |= dict.fromkeys(["margin", "margin_unedited", "margin_followed"], "float64")
KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")  # of a pair's tokens


def measure_fidelity(
    model: str,
    followed_model: str,
    texts: str,
    neurons: str,
    heads: str,
    directions: list[str],
    choices: list[str],
    pairs: str | None,
    fidelity: str,
    margins: str,
    *,
    experiment: str,
    shard: str,
    reading: Reading,
    interventions: dict[str, list[dict] | dict],
    state: str,
    named: list[str] | None = None,
    cuts: dict[str, int | None] | None = None,
    measured: str | None = None,
    number: int | None = None,
    seed: int = 0,
) -> None:
    """Write a row per intervention and text of a shard, which may hold none, and one per `named`
    intervention and pair.

    `texts` is what the followed model wrote, all of which or `number`, drawn with `seed`, are read;
    `interventions` and `choices` are as `resolve_interventions` takes them, `state` the edited
    model's; `measured` the table of units, where one is ranked by it; `pairs` what
    `pair_preferences` wrote of unseen ones, and `cuts` what `tokenise_pairs` cuts them to. Columns
    are those of COLUMNS and OF_MARGINS, named as in `analysis/fidelity.py`. Raises ValueError,
    naming the intervention, for a selection that does not fit the model and for outputs that are
    not finite; and for texts or pairs of another model.
    """
    edited, followed = reading.load(model), reading.load(followed_model)
    units = Units.read(dissect(edited), neurons, heads, weight_digest(model), state, measured)
    along = read_vectors(directions)
    plans = resolve_interventions(units, interventions, choices, along, experiment)
    made = {"experiment": experiment, "shard": shard, "weight_digest": weight_digest(model)}

    written = read_texts(texts, followed_model, number, seed)
    lengths = written["prompt_tokens"].map(len).tolist()

    def read_text(rows: np.ndarray) -> pd.DataFrame:
        return measure_batch(edited, followed, written.iloc[rows], plans)

    measured = in_batches(lengths, shard, f"reading under {len(plans)} interventions", read_text)
    save(fidelity, measured, COLUMNS, [*plans], made | {"texts": file_digest(texts)})

    paired, none = read_pairs(pairs, model if state == "base" else followed_model, cuts)
    chosen = {name: plans[name] for name in named or ()}
    lengths = [len(row["prompt_ids"]) for row in paired]

    def read_pair(rows: np.ndarray) -> pd.DataFrame:
        return margins_of_batch(edited, followed, {row: paired[row] for row in rows}, chosen)

    measured = in_batches(lengths, shard, f"reading pairs under {len(chosen)} of them", read_pair)
    made |= {"pairs": file_digest(pairs)} if pairs else {}
    save(margins, measured, OF_MARGINS, [*chosen], made | none)


def read_texts(path: str, followed_model: str, number: int | None, seed: int) -> pd.DataFrame:
    """Read what the followed model wrote, or some of it; ValueError if another one did."""
    written = read_parquet(path)
    made = {"weight_digest": weight_digest(followed_model)}
    made["tokenizer_digest"] = tokenizer_digest(followed_model)
    check_made(path, written.attrs, made)
    return written if number is None else written.iloc[drawn(len(written), number, seed)]


def read_pairs(path: str | None, base_model: str, cuts: dict | None) -> tuple[list[Row], dict]:
    """Read pairs as tokens of the base model, each with its `prompt`, and why there is `none`.

    Raises ValueError for those of another tokenizer, and for one that is longer than the model
    reads.
    """
    if path is None:
        return [], {}
    table = read_parquet(path)
    check_made(path, table.attrs, {"tokenizer_digest": tokenizer_digest(base_model)})
    none = {name: table.attrs[name] for name in ("none",) if name in table.attrs}
    if none:
        logger.warning("no margin is measured: %s", *none.values())
        return [], none
    for side in WRITTEN:
        table[side] = [tokens.tolist() for tokens in table[side]]
    pairs = table.to_dict("records")
    rows = tokenise_pairs(load_tokenizer(base_model), pairs, **cuts)
    check_positions(base_model, length_of_pairs(rows))
    return [row | {"prompt": pair["prompt"]} for row, pair in zip(rows, pairs, strict=True)], {}


def in_batches(
    lengths: list[int], shard: str, doing: str, measure: Callable[[np.ndarray], pd.DataFrame]
) -> list[pd.DataFrame]:
    """Return what is measured of each of a shard's batches of texts, given by their numbers."""
    batches = part_of_shard(list(sorted_batches(lengths, FOLLOWED_TEXTS)), shard)
    if not batches:
        return []
    return [part for batch in progress(batches, doing) for _, part in halving(batch, measure)]


def save(
    path: str, measured: list[pd.DataFrame], columns: dict[str, str], order: list[str], made: dict
) -> None:
    """Write what was measured in batches, in the order of interventions and of prompts or pairs.

    A shard without texts has columns of the same types.
    """
    table = pd.concat(measured or [pd.DataFrame(columns=list(columns))])
    places = {name: place for place, name in enumerate(order)}
    by = ["order", "prompt_id" if "prompt_id" in columns else "pair_id"]
    table = table.assign(order=table["intervention"].map(places)).sort_values(by)
    table = table.assign(experiment=made["experiment"])[list(columns)].astype(columns)
    write_parquet(path, table, made)


def measure_batch(
    model: PreTrainedModel,
    followed: PreTrainedModel,
    texts: pd.DataFrame,
    interventions: dict[str, Plan],
) -> pd.DataFrame:
    """Return a row per intervention and text of a batch, columns as COLUMNS but the experiment."""
    prompts, new = ([*map(list, texts[name])] for name in ("prompt_tokens", "tokens"))
    try:
        read = read_under(model, followed, prompts, new, interventions)
    except NonFiniteError as error:
        culprit = texts.iloc[error.rows[0]]
        raise ValueError(
            f"{error}; prompt {culprit['prompt_id']}: {culprit['prompt']!r}"
        ) from error
    tables = []
    for name, divergence in read.edited.items():
        touched = interventions[name].count()
        columns = {
            "intervention": name,
            "prompt_id": texts["prompt_id"].to_numpy(),
            "neurons": touched[0],
            "heads": touched[1],
            "key_values": interventions[name].key_values,
            "tokens": [len(tokens) for tokens in new],
            "kl": divergence.kl,
            "agreement": divergence.agreement,
            "kl_unedited": read.unedited.kl,
            "agreement_unedited": read.unedited.agreement,
            "kl_noise": texts["kl_noise"].to_numpy(),
            "overlap": interventions[name].overlap,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def margins_of_batch(
    model: PreTrainedModel,
    followed: PreTrainedModel,
    pairs: dict[int, Row],
    interventions: dict[str, Plan],
) -> pd.DataFrame:
    """Return a row per intervention and pair of a batch, which are given by their `pair_id`;
    columns as OF_MARGINS but the experiment."""
    rows = list(pairs.values())
    prompts, *texts = ([row[key] for row in rows] for key in KEYS)
    try:
        read = measure_margins(model, followed, prompts, tuple(texts), interventions)
    except NonFiniteError as error:
        culprit = error.rows[0]
        said = f"pair {[*pairs][culprit]} of the prompt {rows[culprit]['prompt']!r}"
        raise ValueError(f"{error}; {said}") from error
    tables = [
        pd.DataFrame(
            {
                "intervention": name,
                "pair_id": list(pairs),
                "margin": edited,
                "margin_unedited": read.unedited,
                "margin_followed": read.followed,
            }
        )
        for name, edited in read.edited.items()
    ]
    return pd.concat(tables)


if __name__ == "__main__":
    measure_fidelity(
        model=snakemake.input.model,
        followed_model=snakemake.input.followed_model,
        texts=snakemake.input.texts,
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
        measured=snakemake.input.get("measured"),
        directions=snakemake.input.get("directions", []),
        choices=snakemake.input.get("choices", []),
        pairs=snakemake.input.get("pairs"),
        fidelity=snakemake.output.fidelity,
        margins=snakemake.output.margins,
        experiment=snakemake.wildcards.experiment,
        shard=snakemake.wildcards.shard,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )

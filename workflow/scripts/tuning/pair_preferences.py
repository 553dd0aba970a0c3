"""Bring pairs of continuations together to tune on: for each prompt a chosen and a rejected one.

They are the least and the most extreme of the base model's samples; its greedy continuation and
one that was steered; or those of a dataset. Whatever they are, pairs of equal texts, repeated ones
and those of prompts that the study measures on are left out. Where more remain than are wanted, a
seeded random subset is kept in their order: of samples, the pairs with the largest margins would
be the extreme ones, and would teach the model little about the ordinary.

Other pairs are those that nothing has seen, neither tuning nor the choice of neurons: samples of
the evaluation prompts, or steered and ready pairs that are held out of those to tune on.

A continuation stands there as text and as tokens. Of the model's own they are those that it wrote,
which its text need not give back; of others those of prompt and text together behind the prompt's.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from neurondynamics.data.prompts import normalise, read_prompts
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.rows import text_of, with_texts
from neurondynamics.data.tables import read_shards, write_parquet
from neurondynamics.data.texts import fetched_files, read_rows
from neurondynamics.lm.loading import load_tokenizer, tokenizer_digest
from neurondynamics.tuning.pairs import WRITTEN, believed, kept_unseen, with_tokens

logger = logging.getLogger("pair_preferences")

TEXTS = ["prompt", "chosen", "rejected"]
CUT = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that make no whole character
LONG = 3  # words of a prompt that no continuation begins with by chance
SHOWN = 80  # characters of a prompt in the log
LEE = ["prompt_text", "unpert_gen_text", "pert_gen_text"]  # the same, as Lee et al. name them


def pair_preferences(
    sources: list[str],
    measured: list[str],
    model: str,
    preferences: str,
    *,
    method: str,
    maximum: int,
    seed: int,
    margin: float = 0.0,
    dataset: dict | None = None,
    held_out: int = 0,
    unseen: bool = False,
) -> None:
    """Write at most `maximum` pairs with prompt, chosen and rejected, and tokens: as JSON lines or,
    if they are `unseen`, in Parquet, numbered by `pair_id`.

    Parameters
    ----------
    sources : the shards of the scored samples (`sampled`) or of the steered continuations
        (`steered`), or the folder of a fetched dataset (`ready`).
    measured : files of prompts that no pair may have.
    model : the folder of the model that is tuned, whose tokens they are.
    margin : of sampled, the least difference of the scores of a pair.
    dataset : of ready, its source, its `format`, and optionally `where`.
    held_out : the number of prompts whose pairs are kept from those to tune on, as `kept_unseen`
        draws them; where it is not 0, these are the unseen ones.

    Raises ValueError for a dataset without the fields, and where no pair is left; of unseen ones,
    the table is then empty and its attribute `none` says why.
    """
    made = {"tokenizer_digest": tokenizer_digest(model)}
    try:
        pairs = usable_pairs(sources, measured, model, method, margin, dataset)
        if held_out:
            pairs = parted(pairs, held_out, seed, unseen)
    except NoPairError as error:
        if not unseen:
            raise
        pairs, made["none"] = pd.DataFrame(columns=[*TEXTS, *WRITTEN, "tokenizer"]), str(error)
        logger.warning("there is no pair that nothing has seen: %s", error)
    kept = np.arange(len(pairs))
    if len(pairs) > maximum:
        kept = np.sort(np.random.default_rng(seed).choice(len(pairs), maximum, replace=False))
    logger.info("%d of %d pairs are kept", len(kept), len(pairs))
    if unseen:
        table = pairs.iloc[kept].assign(pair_id=range(len(kept)))
        table.attrs = {}  # those of a shard, if there is but one
        write_parquet(preferences, table, made)
    else:
        write_jsonl(preferences, pairs.iloc[kept].to_dict("records"))


class NoPairError(ValueError):
    """Says why no pair is left."""


def usable_pairs(
    sources: list[str],
    measured: list[str],
    model: str,
    method: str,
    margin: float,
    dataset: dict | None,
) -> pd.DataFrame:
    """Return the pairs of a source that teach something, with their tokens, in their order.

    Raises NoPairError where there is none.
    """
    digest = tokenizer_digest(model)
    if method == "sampled":
        pairs = sampled_pairs(sources, margin).assign(tokenizer=digest)
    elif method == "steered":
        steered = read_shards(sources).sort_values("prompt_id")
        pairs = steered.assign(tokenizer=digest)
    else:
        pairs = ready_pairs(sources[0], dataset)
    number = len(pairs)
    tokenizer = load_tokenizer(model)
    if method == "ready":
        pairs = believed(pairs, tokenizer, digest)
    pairs = with_tokens(pairs.reset_index(drop=True), tokenizer, digest)
    known = {record["text"] for path in measured for record in read_prompts(path)}
    pairs, left_out = usable(pairs, known)
    if pairs.empty:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise NoPairError(f"{sources[0]}: none of its {number} pairs can be tuned on: {why}")
    return pairs


def parted(pairs: pd.DataFrame, number: int, seed: int, unseen: bool) -> pd.DataFrame:
    """Return the pairs to tune on; or, if `unseen`, the first of each prompt that is held out.

    Raises NoPairError where none is.
    """
    prompts = pairs["prompt"].map(normalise)
    kept = kept_unseen(prompts, number, seed)
    logger.info(
        "%d of %d pairs are held out of those to tune on, all those of %d prompts",
        *(kept.sum(), len(pairs), prompts[kept].nunique()),
    )
    if not unseen:
        return pairs[~kept]
    if not kept.any():
        raise NoPairError(
            f"a tenth of {len(pairs)} pairs at most is held out, all of a prompt together, which "
            "is none; bring more pairs"
        )
    return pairs[kept & ~prompts.duplicated()]


def sampled_pairs(continuations: list[str], margin: float) -> pd.DataFrame:
    """Return the pairs whose scores differ by at least `margin`.

    `continuations`: parquet files with columns prompt_id, sample, prompt, text, score, the shards
    of one table. Raises NoPairError where no pair reaches the margin.
    """
    table = read_shards(continuations)
    pairs = find_pairs(table)
    gap = pairs["rejected_score"] - pairs["chosen_score"]
    wide = pairs[(gap >= margin) & (gap > 0)]
    if pairs.empty:
        raise NoPairError(f"{continuations[0]}: none of its continuations could be scored")
    if wide.empty:
        raise NoPairError(
            f"{continuations[0]}: no two continuations of a prompt differ in score by "
            f"preferences.margin = {margin}; the largest margin found is {gap.max():.3f}. Lower "
            "preferences.margin, or raise sampling.samples or sampling.temperature"
        )
    prompts = table["prompt_id"].nunique()
    logger.info("%d prompts, %d pairs reach the margin of %g", prompts, len(wide), margin)
    return wide


def find_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scored continuations of lowest and highest score of each prompt, by prompt_id.

    Continuations without a score take no part. Of equal scores the earlier sample counts.
    """
    scored = table.dropna(subset="score").sort_values(["prompt_id", "sample"])
    by_prompt = scored.groupby("prompt_id")["score"]
    chosen = scored.loc[by_prompt.idxmin()]  # the first of equals
    rejected = scored.loc[by_prompt.idxmax()]
    return pd.DataFrame(
        {
            "prompt": chosen["prompt"].to_numpy(),
            "chosen": chosen["text"].to_numpy(),
            "rejected": rejected["text"].to_numpy(),
            "chosen_tokens": list(chosen["tokens"]),
            "rejected_tokens": list(rejected["tokens"]),
            "chosen_score": chosen["score"].to_numpy(),
            "rejected_score": rejected["score"].to_numpy(),
            "prompt_id": chosen["prompt_id"].to_numpy(),
        }
    )


def ready_pairs(folder: str, dataset: dict) -> pd.DataFrame:
    """Return the pairs of a fetched dataset; rows without one of the three texts are left out.

    Its rows have the fields prompt, chosen and rejected, or those of Lee et al.; in a file that
    `pair_preferences` wrote also tokens and the digest of their tokenizer. Blanks that end a prompt
    begin its continuations, where tokenizers have them. A row whose texts begin with their prompt,
    which the model would read twice, is left out. Raises ValueError naming the file and the line of
    a row that has not these fields, and of the first one that repeats its prompt, if most do.
    """
    name, paths = Path(folder).name, fetched_files(dataset, folder)
    rows = read_rows(name, paths, dataset["format"], dataset.get("where"))
    names = LEE if set(LEE) <= set(rows[0]) else TEXTS
    rows = with_texts(name, rows, *names)
    texts = [[text_of(row, name) for name in names] for row in rows]
    repeating = [repeats_prompt(*of_row) for of_row in texts]
    if sum(repeating) > len(rows) / 2:
        raise ValueError(
            f"{rows[repeating.index(True)].place}: {names[1]!r} or {names[2]!r} begins with its "
            f"{names[0]!r}, as in {sum(repeating)} of {len(rows)} rows, so the model would read it "
            "twice; take it off, so that only what follows the prompt is left"
        )
    if any(repeating):
        logger.warning(
            "%d of %d rows repeat their prompt and are left out, the first of them %s",
            *(sum(repeating), len(rows), rows[repeating.index(True)].place),
        )
    columns = [*TEXTS, *WRITTEN, "tokenizer"]
    pairs = [
        [*blanks_moved(*of_row), *(row.get(name) for name in columns[3:])]
        for row, of_row, repeats in zip(rows, texts, repeating, strict=True)
        if not repeats
    ]
    return pd.DataFrame(pairs, columns=columns)


def repeats_prompt(prompt: str, chosen: str, rejected: str) -> bool:
    """Return whether a continuation begins with its prompt.

    They count as the same as prompts do (see `normalise`); of a prompt of one word or two, which a
    continuation may well begin with, only to the letter and without a blank before it.
    """
    start = normalise(prompt)
    for text in (chosen, rejected):
        said = normalise(text)
        again = said.startswith(start) and not said[len(start) : len(start) + 1].isalnum()
        if again and (len(start.split()) >= LONG or text.startswith(prompt.strip())):
            return True
    return False


def blanks_moved(prompt: str, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return a prompt without the blanks at its end, which its continuations begin with instead."""
    kept = prompt.rstrip()
    return kept, *(prompt[len(kept) :] + text for text in (chosen, rejected))


def usable(pairs: pd.DataFrame, measured: set[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leave out pairs that teach nothing and those of prompts that are measured on; say how many.

    Returns the others, and the number of those left out for each reason, which are logged. Prompts
    count as the same if they are after `normalise`.
    """
    known = {normalise(text) for text in measured}
    blank = ~(pairs["chosen"].str.strip() != "") | ~(pairs["rejected"].str.strip() != "")
    reasons = {
        "lack a continuation": blank,
        "have two equal texts": pairs["chosen"] == pairs["rejected"],
        "end within a character": pairs["chosen"].str.endswith(CUT)
        | pairs["rejected"].str.endswith(CUT),
        "have a token that reaches from the prompt into the text": ~blank
        & pairs[WRITTEN].isna().any(axis=1),
        "repeat an earlier one": pairs.duplicated(TEXTS),
        "have a prompt that the study measures on": pairs["prompt"].map(normalise).isin(known),
    }
    for reason, which in reasons.items():
        if which.any():
            logger.warning(
                "%d of %d pairs %s and are left out, the first of them of the prompt %r",
                *(which.sum(), len(pairs), reason, pairs["prompt"][which].iloc[0][:SHOWN]),
            )
    left_out = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
    return pairs[~np.logical_or.reduce(list(reasons.values()))], left_out


if __name__ == "__main__":
    pair_preferences(
        sources=snakemake.input.sources,
        measured=snakemake.input.measured,
        model=snakemake.input.model,
        preferences=snakemake.output.preferences,
        **snakemake.params.settings,
    )

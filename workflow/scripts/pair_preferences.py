"""Pair each prompt's least toxic continuation (chosen) with its most toxic one (rejected).

Continuations without a score take no part. Of equal scores the earlier sample counts. Where more
pairs reach the margin than are wanted, a seeded random subset is kept, in the order of the prompts:
the pairs with the largest margins would be the extreme ones, and would teach the model little about
the ordinary. A continuation keeps its leading space, so that prompt + continuation is exactly what
the model wrote.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])

import logging

import numpy as np
import pandas as pd
from neurondynamics.data.records import write_jsonl
from neurondynamics.data.tables import read_parquet

logger = logging.getLogger("pair_preferences")


def pair_preferences(
    continuations: list[str], preferences: str, margin: float, maximum: int, seed: int
) -> None:
    """Write at most `maximum` pairs whose toxicities differ by at least `margin` as JSON lines.

    `continuations`: parquet files with columns prompt_id, sample, prompt, text, toxicity, the
    shards of one table. Raises ValueError where no pair reaches the margin.
    """
    table = pd.concat(map(read_parquet, continuations), ignore_index=True)
    pairs = find_pairs(table)
    gap = pairs["rejected_toxicity"] - pairs["chosen_toxicity"]
    wide = pairs[(gap >= margin) & (gap > 0)]
    if pairs.empty:
        raise ValueError(f"{continuations[0]}: none of its continuations could be scored")
    if wide.empty:
        raise ValueError(
            f"{continuations[0]}: no two continuations of a prompt differ in toxicity by "
            f"preferences.margin = {margin}; the largest margin found is {gap.max():.3f}. Lower "
            "preferences.margin, or raise preferences.samples or preferences.temperature"
        )
    kept = np.arange(len(wide))
    if len(wide) > maximum:
        kept = np.sort(np.random.default_rng(seed).choice(len(wide), maximum, replace=False))
    logger.info(
        "%d prompts, %d pairs reach the margin of %g, %d kept",
        table["prompt_id"].nunique(),
        len(wide),
        margin,
        len(kept),
    )
    write_jsonl(preferences, wide.iloc[kept].to_dict("records"))


def find_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the least and the most toxic scored continuation of each prompt, by prompt_id."""
    scored = table.dropna(subset="toxicity").sort_values(["prompt_id", "sample"])
    by_prompt = scored.groupby("prompt_id")["toxicity"]
    chosen = scored.loc[by_prompt.idxmin()]  # the first of equals
    rejected = scored.loc[by_prompt.idxmax()]
    return pd.DataFrame(
        {
            "prompt": chosen["prompt"].to_numpy(),
            "chosen": chosen["text"].to_numpy(),
            "rejected": rejected["text"].to_numpy(),
            "chosen_toxicity": chosen["toxicity"].to_numpy(),
            "rejected_toxicity": rejected["toxicity"].to_numpy(),
            "prompt_id": chosen["prompt_id"].to_numpy(),
        }
    )


if __name__ == "__main__":
    pair_preferences(
        continuations=snakemake.input.continuations,
        preferences=snakemake.output.preferences,
        margin=snakemake.params.margin,
        maximum=snakemake.params.maximum,
        seed=snakemake.params.seed,
    )

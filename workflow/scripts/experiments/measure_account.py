"""Measure how near each part of the other model brings a model to it, alone and without it."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
import pandas as pd
from neurondynamics.data.draws import drawn
from neurondynamics.data.provenance import check_made
from neurondynamics.data.tables import read_parquet, write_parquet
from neurondynamics.interventions.account import Account
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.generation import NonFiniteError, sorted_batches
from neurondynamics.lm.loading import Reading, tokenizer_digest, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import file_digest, progress


def measure_account(
    base_model: str,
    tuned_model: str,
    texts: str,
    output: str,
    *,
    reading: Reading,
    number: int,
    seed: int,
) -> None:
    """Write a row per part, measure and text, of `number` of the texts that the tuned model wrote,
    drawn with `seed`, or of all where there are not as many.

    Columns: `part` and `layer`, missing where it is of all layers or of none, `measure`,
    `prompt_id`, `kl` and `agreement`, of the base model as it is `kl_unedited`, and the texts'
    `kl_noise`. Raises ValueError for texts of another model, for models of different shapes, and,
    naming the prompt, for outputs that are not finite.
    """
    written = read_parquet(texts)
    made = {"weight_digest": weight_digest(tuned_model)}
    check_made(texts, written.attrs, made | {"tokenizer_digest": tokenizer_digest(tuned_model)})
    written = written.iloc[drawn(len(written), number, seed)]
    base, tuned = reading.load(base_model), reading.load(tuned_model)
    lengths = [len(tokens) for tokens in written["prompt_tokens"]]

    def measure(rows: np.ndarray) -> pd.DataFrame:
        return account_of(base, tuned, written.iloc[rows])

    parts = []
    for batch in progress(
        list(sorted_batches(lengths, FOLLOWED_TEXTS)), f"account of {len(written)} texts"
    ):
        parts += [part for _, part in halving(batch, measure)]
    measured = pd.concat(parts)
    order = {key: place for place, key in enumerate(dict.fromkeys(keys_of(measured)))}
    measured = measured.assign(order=[order[key] for key in keys_of(measured)])
    measured = measured.sort_values(["order", "prompt_id"]).drop(columns="order")
    made = {"base_weights": weight_digest(base_model), "tuned_weights": weight_digest(tuned_model)}
    write_parquet(output, measured.reset_index(drop=True), made | {"texts": file_digest(texts)})


def account_of(base, tuned, texts: pd.DataFrame) -> pd.DataFrame:
    """Return a row per part, measure and text of a batch, columns as `measure_account`."""
    prompts, new = ([*map(list, texts[name])] for name in ("prompt_tokens", "tokens"))
    try:
        account = Account(base, tuned, prompts, new)
        shared = {
            "prompt_id": texts["prompt_id"].to_numpy(),
            "kl_unedited": account.unedited().kl,
            "kl_noise": texts["kl_noise"].to_numpy(),
        }
        parts = [
            pd.DataFrame(
                {**key._asdict(), **shared, "kl": found.kl, "agreement": found.agreement}
            ).astype({"layer": "Int64"})
            for key, found in account.measure()
        ]
    except NonFiniteError as error:
        culprit = texts.iloc[error.rows[0]]
        raise ValueError(
            f"{error}; prompt {culprit['prompt_id']}: {culprit['prompt']!r}"
        ) from error
    return pd.concat(parts)


def keys_of(measured: pd.DataFrame) -> list[tuple]:
    """Return the part, layer (-1 where there is none) and measure of each row."""
    layers = measured["layer"].fillna(-1)
    return list(zip(measured["part"], layers, measured["measure"], strict=True))


if __name__ == "__main__":
    measure_account(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        texts=snakemake.input.texts,
        output=snakemake.output.account,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
        **snakemake.params.settings,
    )

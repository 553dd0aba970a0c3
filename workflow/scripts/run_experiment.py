"""Run a named list of interventions on one model: generations and token losses of each.

The model is loaded once, and the prompts' prefill, which no intervention at the new-token
positions touches, is computed once per batch. Generations are edited at the new-token positions;
token losses, for perplexity, are edited at every position of the text.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging

import numpy as np
import pandas as pd
import torch
from neurondynamics.analysis.selection import select
from neurondynamics.data.passages import neutral_passages
from neurondynamics.data.records import read_jsonl, replacing
from neurondynamics.lm.anatomy import Anatomy, dissect
from neurondynamics.lm.generation import (
    NonFiniteError,
    decode,
    prefill,
    sorted_batches,
    token_losses,
)
from neurondynamics.lm.interventions import Edit, applied, count_neurons
from neurondynamics.lm.loading import (
    encode_prompts,
    load_model,
    load_tokenizer,
    set_threads,
)
from neurondynamics.runtime import progress

logger = logging.getLogger(__name__)

TOKENS_PER_PASS = 4096  # of the text read at once for token losses


def run_experiment(
    model: str,
    neurons: str,
    prompts: str,
    corpus: str,
    generations: str,
    losses: str,
    *,
    experiment: str,
    interventions: dict[str, list[dict]],
    passages: dict[str, int],
    dtype: str,
    device: str,
    threads: int,
    max_tokens: int,
    new_tokens: int,
    batch_size: int,
    seed: int,
) -> None:
    """Write the continuations of prompts and passages, and the losses of text windows.

    `interventions` maps a name to its list of edits as the configuration states them; `passages`
    holds the keys of the configuration's `corpus` that give numbers and widths. Raises ValueError,
    naming the intervention, for a selection that does not fit the model and for a NaN or infinite
    output, then with the prompt or window too.
    """
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    lm = load_model(model, dtype, device)
    anatomy = dissect(lm)
    edits = resolve_interventions(pd.read_parquet(neurons), interventions, experiment)
    records = read_jsonl(prompts)
    encoded = encode_prompts(tokenizer, [record["text"] for record in records], max_tokens)
    windows, texts = neutral_passages(
        tokenizer,
        [r["text"] for r in read_jsonl(corpus)],
        new_tokens=new_tokens,
        seed=seed,
        **passages,
    )
    items = [
        ("prompts", record["prompt_id"], record["text"], ids, [])
        for record, ids in zip(records, encoded, strict=True)
    ] + [
        (
            "articles",
            number,
            tokenizer.decode(ids[:-new_tokens]),
            ids[:-new_tokens],
            ids[-new_tokens:],
        )
        for number, ids in enumerate(texts)
    ]
    table = generate_all(lm, anatomy, tokenizer, edits, items, new_tokens, batch_size)
    with replacing(generations) as temporary:
        table.to_parquet(temporary, index=False)
    table = measure_losses(lm, anatomy, edits, windows)
    with replacing(losses) as temporary:
        table.to_parquet(temporary, index=False)


def resolve_interventions(
    neurons: pd.DataFrame, interventions: dict[str, list[dict]], experiment: str
) -> dict[str, list[Edit]]:
    """Turn the configuration's edits into edits of named neurons."""
    resolved = {}
    for name, steps in interventions.items():
        try:
            resolved[name] = [resolve_edit(neurons, step) for step in steps]
        except ValueError as error:
            raise ValueError(f"experiments.{experiment}.interventions.{name}: {error}") from error
        logger.info("%s edits %d neurons", name, count_neurons(resolved[name]))
    return resolved


def resolve_edit(neurons: pd.DataFrame, step: dict) -> Edit:
    """Return one edit; a patch moves each neuron to the tuned model's mean activation."""
    chosen = select(neurons, step["select"])
    values = chosen.activation_tuned.to_numpy() if step["operation"] == "patch" else None
    return Edit(
        step["operation"],
        chosen.layer.to_numpy(),
        chosen.neuron.to_numpy(),
        values,
        step.get("factor"),
    )


def generate_all(
    lm, anatomy: Anatomy, tokenizer, edits: dict[str, list[Edit]], items, new_tokens, batch_size
) -> pd.DataFrame:
    """Continue every item under every intervention; each batch's prefill serves all of them.

    `items` are tuples of corpus, number, text, token ids and true continuation.
    """
    rows = []
    batches = list(sorted_batches([len(item[3]) for item in items], batch_size))
    for batch in progress(batches, f"generating under {len(edits)} interventions"):
        prefix = prefill(lm, [items[i][3] for i in batch])
        for name, steps in edits.items():
            try:
                with applied(anatomy, steps):
                    new = decode(lm, prefix, new_tokens).lists()
            except NonFiniteError as error:
                culprit = items[batch[error.rows[0]]]
                raise ValueError(
                    f"{name}: {error}; {culprit[0]} {culprit[1]}: {culprit[2]!r}"
                ) from error
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, tokens, text in zip(batch, new, decoded, strict=True):
                corpus, number, prompt, _, reference = items[i]
                rows.append((name, corpus, number, prompt, text, tokens, reference))
    columns = [
        "intervention",
        "corpus",
        "prompt_id",
        "prompt",
        "text",
        "tokens",
        "reference_tokens",
    ]
    table = pd.DataFrame(rows, columns=columns)
    order = {name: position for position, name in enumerate(edits)}
    keys = table.intervention.map(order)
    return (
        table.assign(order=keys).sort_values(["order", "corpus", "prompt_id"]).drop(columns="order")
    )


def measure_losses(
    lm, anatomy: Anatomy, edits: dict[str, list[Edit]], windows: np.ndarray
) -> pd.DataFrame:
    """Return the summed loss of each text window, (windows, width), under each intervention."""
    step = max(1, TOKENS_PER_PASS // windows.shape[1])
    parts = []
    for name, steps in progress(edits.items(), "token losses", total=len(edits)):
        nll = np.empty(len(windows))
        with applied(anatomy, steps):
            for start in range(0, len(windows), step):
                batch = torch.as_tensor(windows[start : start + step])
                try:
                    nll[start : start + step] = token_losses(lm, batch)
                except NonFiniteError as error:
                    raise ValueError(f"{name}: {error}; window {start + error.rows[0]}") from error
        numbers = {"window": np.arange(len(windows)), "nll": nll, "tokens": windows.shape[1] - 1}
        parts.append(
            pd.DataFrame({"intervention": name, **numbers, "neurons": count_neurons(steps)})
        )
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    run_experiment(
        model=snakemake.input.model,
        neurons=snakemake.input.neurons,
        prompts=snakemake.input.prompts,
        corpus=snakemake.input.corpus,
        generations=snakemake.output.generations,
        losses=snakemake.output.losses,
        experiment=snakemake.wildcards.experiment,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )

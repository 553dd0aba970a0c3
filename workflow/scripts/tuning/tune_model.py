"""Tune the base model on preference pairs (TRL), and save it with its learning curve."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import logging

from neurondynamics.data.files import replacing_folder
from neurondynamics.data.records import read_jsonl
from neurondynamics.lm.devices import is_gpu, take_gpus
from neurondynamics.lm.loading import load_tokenizer, tokenizer_digest
from neurondynamics.lm.memory import fitting
from neurondynamics.lm.precision import record_change
from neurondynamics.lm.shape import check_positions
from neurondynamics.lm.special import read_special, write_special
from neurondynamics.tuning.losses import hold_out
from neurondynamics.tuning.pairs import length_of_pairs, tokenise_pairs
from neurondynamics.tuning.processes import run_together
from neurondynamics.tuning.training import Files, Recipe, train, write_rows

logger = logging.getLogger("tune_model")


def tune_model(
    model: str,
    pairs: str,
    folder: str,
    curve: str,
    *,
    device: str,
    threads: int,
    max_tokens: int | None,
    **recipe,
) -> None:
    """Train a copy of the model and write its folder, in float32, and its learning curve.

    `recipe` are the fields of a Recipe. Prompts are cut to the first `max_tokens`, if any. With
    several GPUs, as many processes share each batch.

    Where memory runs out, training starts again with half the pairs at a time and twice the
    accumulation, which are the same steps on the same pairs (in a last batch that is not full, its
    halves count alike; KTO estimates a divergence on the pairs that are read together). Raises
    ValueError with the pair's prompt if a loss is not finite, for a pair that is longer than the
    model reads, and if no weight has moved, and MemoryError if memory is short for an odd number of
    pairs.
    """
    chosen = Recipe(**recipe)
    processes = count_processes(device, chosen.gpus)
    # what is needed on the way lies beside the result: /tmp may not hold the best weights
    with replacing_folder(folder) as staged:
        files = Files(model, str(staged.parent), str(staged), curve)
        write_rows(chosen, files, tokenised(model, read_jsonl(pairs), max_tokens, chosen))
        fitting(
            chosen.batch_size // processes,
            lambda at_once: run_together(
                train,
                processes,
                *(chosen, files, device, max(1, threads // processes), at_once, processes),
            ),
        )
        record_change(model, staged)
        special = read_special(model)
        if special is not None:
            write_special(special, staged)


def tokenised(
    model: str, pairs: list[dict], max_tokens: int | None, recipe: Recipe
) -> dict[str, list[dict]]:
    """Return the rows to train on, and those to hold out where training ends early.

    Raises ValueError for pairs that hold the tokens of another tokenizer.
    """
    tokenizer = load_tokenizer(model)
    if {pair["tokenizer"] for pair in pairs} != {tokenizer_digest(model)}:
        raise ValueError(
            f"the pairs hold the tokens of another tokenizer than that of {model}: remove their "
            "file and run again"
        )
    parts = {"train": pairs}
    if recipe.early_stopping:
        share = recipe.early_stopping["held_out"]
        parts = dict(zip(("train", "held_out"), hold_out(pairs, share, recipe.seed), strict=True))
    for name, some in parts.items():
        logger.info("%s: %d pairs", name, len(some))
    lengths = {"prompt_tokens": recipe.prompt_tokens}
    lengths["continuation_tokens"] = recipe.continuation_tokens
    rows = {
        name: tokenise_pairs(tokenizer, some, max_tokens, **lengths) for name, some in parts.items()
    }
    check_positions(model, length_of_pairs([row for some in rows.values() for row in some]))
    return rows


def count_processes(device: str, gpus: int) -> int:
    """Return how many processes share a batch: one on each of several GPUs, else one."""
    if gpus == 1 or not is_gpu(device):
        return 1
    take_gpus(gpus)
    return gpus


if __name__ == "__main__":
    tune_model(
        model=snakemake.input.model,
        pairs=snakemake.input.pairs,
        folder=snakemake.output.model,
        curve=snakemake.output.curve,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )

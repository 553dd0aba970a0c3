"""Measure how far tuning moved every neuron and head on the base model's text.

Both models read the continuations that the base model's store holds. The change of a neuron or head
is that of single tokens, which means over a text cannot show.
"""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import numpy as np
from neurondynamics.analysis.changes import Changes, write_changes
from neurondynamics.data.store import ActivationStore, common_to
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.changes import SquaredChanges, Sums
from neurondynamics.lm.encoding import encode_prompts
from neurondynamics.lm.generation import sorted_batches
from neurondynamics.lm.loading import Reading, load_tokenizer, weight_digest
from neurondynamics.lm.memory import halving
from neurondynamics.runtime import progress


def measure_change(
    base_model: str, tuned_model: str, base: list[str], changes: str, *, reading: Reading
) -> None:
    """Write the mean squared change of every neuron and head over all new-token positions.

    `base` are the stores of the base model on its own text. Both models are held, and what the
    base model's neurons and heads do on at most FOLLOWED_TEXTS texts at a time. Raises ValueError
    for stores of another model or state, and, naming a prompt, where activations are not finite.
    """
    made = {"base_weights": weight_digest(base_model), "tuned_weights": weight_digest(tuned_model)}
    with ActivationStore(base, {"state": "base", "weight_digest": made["base_weights"]}) as store:
        texts, continuations = store.prompts, store.continuations()
        made |= common_to(store)
    prompts = encode_prompts(load_tokenizer(base_model), texts, reading.max_tokens)
    models = SquaredChanges(reading.load(base_model), reading.load(tuned_model))
    lengths = [len(p) + len(c) for p, c in zip(prompts, continuations, strict=True)]
    batches = list(sorted_batches(lengths, min(reading.batch_size, FOLLOWED_TEXTS)))
    neurons = heads = tokens = 0

    def read(rows: np.ndarray) -> Sums:
        sums = models.read([prompts[i] for i in rows], [continuations[i] for i in rows])
        if not all(values.isfinite().all() for values in sums):
            raise ValueError(
                "activations are NaN or infinite in one of the models, for a prompt of those from "
                f"{texts[rows[0]]!r} to {texts[rows[-1]]!r}"
            )
        return sums

    for batch in progress(batches, "comparing the two models on the base model's text"):
        for rows, sums in halving(batch, read):
            neurons, heads = neurons + sums.neurons.numpy(), heads + sums.heads.numpy()
            tokens += sum(len(continuations[i]) for i in rows)
    write_changes(changes, Changes(neurons / tokens, heads / tokens), made)


if __name__ == "__main__":
    measure_change(
        base_model=snakemake.input.base_model,
        tuned_model=snakemake.input.tuned_model,
        base=snakemake.input.base,
        changes=snakemake.output.changes,
        reading=Reading(**snakemake.params.reading, threads=snakemake.threads),
    )

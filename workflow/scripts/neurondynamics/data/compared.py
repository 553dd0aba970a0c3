"""The stores that an attribution compares: of the base model, and of the tuned one on two texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from neurondynamics.data.store import ActivationStore, check_same_prompts


@contextmanager
def compared_stores(
    base: Sequence[str],
    tuned: Sequence[str],
    same_text: Sequence[str],
    base_weights: str,
    tuned_weights: str,
) -> Iterator[tuple[ActivationStore, ActivationStore, ActivationStore]]:
    """Open the stores of the base model, of the tuned model on its own text and of the tuned model
    on the base's text.

    The digests are those of the models' weights. Raises ValueError, naming the file, if the stores
    do not hold the same prompts, are of other models or states, or if the last one was not read
    from the text of the first.
    """
    on_base_text = {"state": "tuned-on-base-text", "weight_digest": tuned_weights}
    with (
        ActivationStore(base, {"state": "base", "weight_digest": base_weights}) as a,
        ActivationStore(tuned, {"state": "tuned", "weight_digest": tuned_weights}) as b,
        ActivationStore(same_text, on_base_text) as c,
    ):
        check_same_prompts(a, b, c)
        if not np.array_equal(a.tokens, c.tokens):
            raise ValueError(
                f"{same_text[0]} was not read from the text of {base[0]}; delete it and run again"
            )
        yield a, b, c

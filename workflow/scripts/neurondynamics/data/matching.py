"""Whether stores belong together."""

from __future__ import annotations

from neurondynamics.data.store import ActivationStore


def check_same_prompts(first: ActivationStore, *others: ActivationStore) -> None:
    """Raise ValueError unless all stores hold the same prompts in the same order."""
    for other in others:
        if other.prompts != first.prompts:
            raise ValueError(
                f"the stores of the states {first.attributes['state']} and "
                f"{other.attributes['state']} hold different prompts; delete them and run again"
            )

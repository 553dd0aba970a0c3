"""A model with what its interventions need beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from neurondynamics.interventions.edits import applied, followed_sites, listening
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.plans import Plan
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.stored import StoredWeights


@dataclass(frozen=True)
class Stage:
    """The model that is edited, and the other one that a paired patch follows, if any does."""

    model: PreTrainedModel
    leader: PreTrainedModel | None
    weights: StoredWeights | None = None  # the other model's, where some are moved

    def moved(self, plan: Plan) -> Stage:
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

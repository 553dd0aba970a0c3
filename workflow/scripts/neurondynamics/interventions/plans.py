"""From the steps that a configuration states to edits of named units."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from neurondynamics.data.files import unusable
from neurondynamics.data.records import read_json
from neurondynamics.interventions.edits import act_of, count_units
from neurondynamics.interventions.operations import OPERATIONS, entry
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.selection import drawn_again
from neurondynamics.interventions.transplant import Move, transplanted
from neurondynamics.interventions.units import Units

logger = logging.getLogger(__name__)
Weights = PreTrainedModel | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What an intervention does: weights that are moved, and then edits by hooks."""

    edits: tuple[Edit, ...] = ()
    moves: tuple[Move, ...] = ()
    identity: bool = False  # its paired edits follow the edited model itself, in a run of its own
    overlap: float = 0.0  # part of the units that a random draw controls that it has drawn again

    def moved(self, model: PreTrainedModel, other: Weights | None) -> PreTrainedModel:
        """Return the model with its weights moved toward the other's, a copy, or as it is."""
        for move in self.moves:
            model = transplanted(model, other, move.parts, move.factor)
        return model

    def count(self) -> tuple[int, int]:
        """Return how many neurons, and how many heads, are edited or moved."""
        edited = count_units(self.edits)
        moved = (sum(getattr(m, kind) for m in self.moves) for kind in ("neurons", "heads"))
        return tuple(map(sum, zip(edited, moved, strict=True)))

    @property
    def key_values(self) -> int:
        """How many key/value heads are moved, where they are named one by one."""
        return sum(len(move.parts.key_values) for move in self.moves)


def resolve_interventions(
    units: Units,
    interventions: Mapping[str, list[dict] | dict],
    choices: Sequence[str | Path],
    directions: Mapping[str, np.ndarray],
    experiment: str,
) -> dict[str, Plan]:
    """Turn the interventions of an experiment into plans for named units.

    `interventions` maps a name to its steps, or to {best_of: the interventions of a search};
    `choices` are the files that say which one was chosen, in the order of these. Raises ValueError,
    naming the intervention, as `chosen_steps` and `plan_steps` do.
    """
    searched = (name for name, steps in interventions.items() if isinstance(steps, dict))
    choice = dict(zip(searched, choices, strict=True))
    resolved = {}
    for name, steps in interventions.items():
        try:
            chosen = chosen_steps(steps, choice.get(name))
            resolved[name] = plan_steps(units, chosen, directions)
        except ValueError as error:
            raise ValueError(f"experiments.{experiment}.interventions.{name}{error}") from error
        counted = *resolved[name].count(), resolved[name].key_values
        logger.info("%s edits %d neurons, %d heads and %d key/value heads", name, *counted)
    return resolved


def chosen_steps(steps: list[dict] | dict, choice: str | Path | None) -> list[dict]:
    """Return the steps of an intervention, which may be {best_of: the interventions of a search}.

    `choice` is then the JSON file that names the chosen one. Raises ValueError, naming it, if it is
    that of another search.
    """
    if isinstance(steps, list):
        return steps
    candidates, chosen = steps["best_of"], read_json(choice).get("intervention")
    if chosen not in candidates:
        raise unusable(choice, f"chose {chosen!r}, which is none of {', '.join(candidates)}")
    return candidates[chosen]


def plan_steps(units: Units, steps: list[dict], directions: Mapping[str, np.ndarray]) -> Plan:
    """Resolve the steps of an intervention, in order; a step on neurons and heads gives two edits.

    `directions` are the vectors, (d_model,), that a step may subtract, by name. Raises ValueError,
    naming the step, where its operation is unknown or cannot be done to heads, its selection does
    not fit the tables or its direction is not there.
    """
    edits, moves, again = [], [], [0.0]
    for number, step in enumerate(steps):
        try:
            again.append(drawn_again(units, step.get("select", {})))
            made = entry(OPERATIONS, "operation", step["operation"])(step, units, directions)
            moves += [one for one in made if isinstance(one, Move)]
            made = [one for one in made if isinstance(one, Edit)]
            for edit in made:
                act_of(edit)
        except ValueError as error:
            raise ValueError(f"[{number}]: {error}") from error
        edits += [replace(edit, positions=step.get("positions", "new")) for edit in made]
    modes = {step.get("mode") for step in steps} & {"paired", "identity"}
    if len(modes) > 1:
        raise ValueError(": an intervention follows either the other model or, as identity, itself")
    return Plan(tuple(edits), tuple(moves), modes == {"identity"}, max(again))

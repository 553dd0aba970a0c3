"""From the steps that a configuration states to edits of named neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.data.files import unusable
from neurondynamics.data.records import read_json
from neurondynamics.interventions.operations import OPERATIONS, entry
from neurondynamics.interventions.parts import Edit


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


def plan_edits(
    neurons: pd.DataFrame, steps: list[dict], directions: Mapping[str, np.ndarray]
) -> list[Edit]:
    """Resolve the steps of an intervention, in order.

    `neurons` is the neuron table; `directions` are the vectors, (d_model,), that a step may
    subtract, by name. Raises ValueError, naming the step, where its operation is unknown, its
    selection does not fit the table or its direction is not there.
    """
    edits = []
    for number, step in enumerate(steps):
        try:
            plan = entry(OPERATIONS, "operation", step["operation"])
            edit = plan(step, neurons, directions)
        except ValueError as error:
            raise ValueError(f"[{number}]: {error}") from error
        edits.append(replace(edit, positions=step.get("positions", "new")))
    return edits

"""From the edits that a configuration states to edits of named neurons."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from neurondynamics.analysis.selection import select
from neurondynamics.data.records import reading
from neurondynamics.lm.interventions import Edit
from neurondynamics.lm.weights import unit


def chosen_steps(steps: list[dict] | dict, choice: str | Path | None) -> list[dict]:
    """Return the steps of an intervention, which may be {best_of: the interventions of a search}.

    `choice` is then the JSON file that names the chosen one.
    """
    if isinstance(steps, list):
        return steps
    with reading(choice):
        chosen = json.loads(Path(choice).read_text(encoding="utf-8"))["intervention"]
    return steps["best_of"][chosen]


def plan_edits(
    neurons: pd.DataFrame, steps: list[dict], directions: Mapping[str, np.ndarray]
) -> list[Edit]:
    """Resolve the steps of an intervention, in order.

    `neurons` is the neuron table; `directions` are the vectors, (d_model,), that a step may
    subtract, by name. Raises ValueError, naming the step, where its selection does not fit the
    table or its direction is not there.
    """
    edits = []
    for number, step in enumerate(steps):
        try:
            edits.append(_plan(neurons, step, directions))
        except ValueError as error:
            raise ValueError(f"[{number}]: {error}") from error
    return edits


def _plan(neurons: pd.DataFrame, step: dict, directions: Mapping[str, np.ndarray]) -> Edit:
    operation, positions = step["operation"], step.get("positions", "new")
    if operation == "subtract":
        if step["direction"] not in directions:
            known = ", ".join(sorted(directions))
            raise ValueError(f"there is no direction {step['direction']!r}; known are {known}")
        vector = step["scale"] * unit(directions[step["direction"]])
        layer = neurons.layer.max() if step["layer"] == "last" else step["layer"]
        nothing = np.array([], dtype=int)
        return Edit("subtract", np.array([layer]), nothing, vector, positions=positions)
    chosen = select(neurons, step["select"])
    values = None
    if operation == "patch":
        operation, values = _patch(chosen, step.get("mode", "mean"), step.get("shuffle_signs"))
    elif operation == "edit":
        operation, values = _edit(chosen, step["factor"], step.get("mode", "mean"))
    factor = step.get("factor") if values is None else None
    places = chosen.layer.to_numpy(), chosen.neuron.to_numpy()
    return Edit(operation, *places, values, factor, positions)


def _edit(chosen: pd.DataFrame, factor: float, mode: str) -> tuple[str, np.ndarray]:
    """Return the operation that moves neurons' means to `factor` times what they are.

    `mean` is the paper's tuning-free editing, the constant (1 ± alpha)·mean; `shift` moves the
    mean as far and leaves what varies about it.
    """
    mean = chosen.activation_base.to_numpy()
    return ("set", factor * mean) if mode == "mean" else ("shift", (factor - 1) * mean)


def _patch(chosen: pd.DataFrame, mode: str, shuffle: int | None) -> tuple[str, np.ndarray]:
    """Return the operation that moves neurons toward the tuned model, and its values.

    With `shuffle`, the seed, a random half of the neurons moves as far the other way.
    """
    signs = np.ones(len(chosen))
    if shuffle is not None:
        signs[np.random.default_rng(shuffle).permutation(len(chosen))[: len(chosen) // 2]] = -1
    base, tuned = chosen.activation_base.to_numpy(), chosen.activation_tuned.to_numpy()
    if mode == "paired":
        return "paired", signs
    if mode == "shift":
        return "shift", signs * (tuned - base)
    return "set", np.where(signs > 0, tuned, 2 * base - tuned)

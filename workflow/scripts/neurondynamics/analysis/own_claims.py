"""Claims of ours about what carries a tuning: whether the paper's two groups are more than other
units, whether they suffice and are needed, and which half of the blocks carries more.

By activations an intervention moves what units do, whatever made it; by weights it moves what was
changed. Each claim is judged by every measure, and none of one kind speaks for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from neurondynamics.analysis.claims import row, tested
from neurondynamics.analysis.effects import Effects
from neurondynamics.analysis.fidelity import Nearness

ENOUGH = 0.8  # of the tuning, as the paper's claim of two groups is read
Named = Mapping[str, Sequence[str]]  # of each key the interventions that it names


def claims_on_units(judge: Effects | Nearness, name: str, named: Named) -> list[dict]:
    """Test what some interventions say of units, by one measure.

    `named` has, each with the draws that control it behind it, `activations` and `weights`: two
    groups of neurons moved to the tuned model by either; `back`, the weights of these moved back in
    the tuned model; and `attention` and `mlp`, all of them moved, by activations and by weights.
    A key that is not there has no claim.
    """
    rows = []
    for kind in ("activations", "weights"):
        group, *draws = named.get(kind, [None])
        if draws:
            rows.append(
                row(
                    f"groups-beyond-random-{kind}",
                    f"By their {kind} the two groups bring more of the tuning than as many other "
                    f"neurons that moved as far (share of {group} less that of "
                    f"{_counted(draws)})",
                    **tested(judge, "base", [group, *draws], combine=_less_the_rest),
                    criterion="> 0",
                )
            )
    if named.get("weights"):
        rows.append(
            row(
                "groups-suffice",
                f"The weights of the two groups alone bring most of the tuning (share of "
                f"{named['weights'][0]})",
                **tested(judge, "base", named["weights"][:1]),
                criterion=f">= {ENOUGH}",
            )
        )
    if named.get("back"):
        rows.append(
            row(
                "groups-are-needed",
                f"Without the weights of the two groups most of the tuning is gone (part undone by "
                f"{named['back'][0]})",
                **tested(judge, "tuned", named["back"][:1], combine=_undone),
                criterion=f">= {ENOUGH}",
            )
        )
    halves = zip(*(named.get(half, ()) for half in ("attention", "mlp")), strict=False)
    for kind, pair in zip(("activations", "weights"), halves, strict=False):
        rows.append(
            row(
                f"attention-beyond-mlp-{kind}",
                f"By {kind} attention brings more of the tuning than the MLPs (share of {pair[0]} "
                f"less that of {pair[1]})",
                **tested(judge, "base", list(pair), combine=_less_the_rest),
                criterion="> 0",
            )
        )
    return [{**one, "judged_by": name} for one in rows]


def _less_the_rest(shares: np.ndarray) -> np.ndarray:  # (resamples, interventions)
    return shares[..., 0] - shares[..., 1:].mean(axis=-1)


def _undone(shares: np.ndarray) -> np.ndarray:
    return 1 - shares[..., 0]


def _counted(draws: Sequence[str]) -> str:
    return "one draw" if len(draws) == 1 else f"{len(draws)} draws"

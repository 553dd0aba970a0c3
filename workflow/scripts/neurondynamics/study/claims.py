"""The interventions that claims speak of, as a configuration names them."""

from __future__ import annotations

from collections.abc import Iterable

from neurondynamics.study.interventions import with_controls

OURS = ("activations", "weights", "back", "attention", "mlp")  # keys that the paper has no claim of


def named_claims(config: dict, reported: Iterable[str]) -> dict:
    """Return the interventions that the paper's claims name, `claims`, and those that ours do,
    `own_claims`, the latter with the draws of random units that control them.

    `reported` are the experiments that are reported.
    """
    stated, drawn = config["claims"], {}
    for name in reported:
        for one in with_controls(config["experiments"][name]):
            of, control, _ = one.partition("~random-")
            drawn.setdefault(of, []).extend([one] if control else [])
    ours = {key: stated[key] for key in OURS if key in stated}
    return {
        "claims": {key: named for key, named in stated.items() if key not in OURS},
        "own_claims": {
            key: named if isinstance(named, list) else [named, *drawn.get(named, [])]
            for key, named in ours.items()
        },
    }

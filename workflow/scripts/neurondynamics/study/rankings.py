"""Rankings of units, judged by what moving ever more of them does: what a configuration says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from neurondynamics.limits import NO_COSINE, NO_KEY_VALUES, OF_GRADIENTS
from neurondynamics.study.interventions import FIDELITY, steps_with_names

NAME = "rankings"  # of the experiment that they are
WHOLE = "100%"


class Curve(NamedTuple):
    """One ranking, of one kind of units, moved by one operation."""

    operation: str
    of: str
    by: str

    def name(self, size: str) -> str:
        """Return the name of the intervention that moves the first of its units."""
        return f"{self.operation}-{self.of}-{self.by}-{size}"


def is_ranked(experiment: dict) -> bool:
    """Return whether an experiment is that of the rankings, which has tables of its own."""
    return experiment.get("ranked", False)


def curves(config: dict) -> list[Curve]:
    """Return all rankings of a study."""
    stated = config.get(NAME, {"curves": []})["curves"]
    return [Curve(one["operation"], one["of"], by) for one in stated for by in one["by"]]


def sizes(config: dict) -> list[str]:
    """Return the parts of all units that are moved, the smallest first, all of them last."""
    parts = config.get(NAME, {"percent": []})["percent"]
    return [*(f"{part:g}%" for part in sorted(parts) if part < 100), WHOLE]


def with_rankings(config: dict) -> dict:
    """Return a configuration whose rankings are an experiment, an intervention for every size."""
    if NAME not in config:
        return config
    seed = {"seed": config["seed"]}
    interventions = {
        curve.name(size): [_step(curve, size, seed if curve.by == "random" else {})]
        for curve in curves(config)
        for size in sizes(config)
    }
    ranked = {"state": "base", "measures": [FIDELITY], "interventions": interventions}
    experiments = {**config["experiments"], NAME: {**ranked, "ranked": True}}
    return {**config, "experiments": experiments}


def _step(curve: Curve, size: str, seed: dict) -> dict:
    select = {"top": size, "of": curve.of, "by": curve.by, **seed}
    mode = {"mode": "paired"} if curve.operation == "patch" else {}
    return {"select": select, "operation": curve.operation, **mode}


def contradictions(config: dict) -> Iterator[str]:
    """Yield what does not go together in rankings and where they are used, a line each."""
    if NAME in config["experiments"] and not is_ranked(config["experiments"][NAME]):
        yield f"experiments.{NAME}: this is the name of those of the key `{NAME}`; choose another"
    if NAME in config and "gradients" not in config:
        yield f"{NAME}: what units weigh is measured with `gradients`; drop {NAME} with null too"
    if NAME in config and len(set(config[NAME]["percent"])) < len(config[NAME]["percent"]):
        yield f"{NAME}.percent: a part of the units is listed twice"
    for index, one in enumerate(config.get(NAME, {"curves": []})["curves"]):
        key = f"{NAME}.curves[{index}]"
        if one["of"] == "blocks" and one["operation"] == "patch":
            yield f"{key}.of: {NO_KEY_VALUES}"
        for place, by in enumerate(one["by"]):
            yield from _by(by, one["of"], f"{key}.by[{place}]", config)
    for key, step in steps_with_names(config["experiments"]):
        selection = step.get("select", {})
        selection = selection.get("random", selection)
        if "by" in selection:
            yield from _by(selection["by"], selection.get("of"), f"{key}.select.by", config)


def _by(by: str, of: str | None, key: str, config: dict) -> Iterator[str]:
    if by in OF_GRADIENTS and "gradients" not in config:
        yield f"{key}: {by} is measured where the key `gradients` says on how many prompts"
    if by == "cosine" and of not in (None, "neurons"):
        yield f"{key}: {NO_COSINE}"
    if of == "blocks" and by not in ("weight_change", "gradient_transplant", "random"):
        yield f"{key}: key/value heads have no {by}; rank blocks by what is measured of weights"

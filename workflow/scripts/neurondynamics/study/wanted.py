"""Which tables and figures a version of a study has: each says so of configuration and version."""

from __future__ import annotations

from neurondynamics.study.interventions import is_search, measures_of
from neurondynamics.study.rankings import is_ranked
from neurondynamics.study.tuning import tuned_here


def always(config: dict, version: dict) -> bool:
    """A result that every version of a study has."""
    return True


def seeded(config: dict, version: dict) -> bool:
    """A result of versions that are tuned with further seeds."""
    return "seeds" in version


def was_tuned_here(config: dict, version: dict) -> bool:
    """A result of a tuning that this workflow did."""
    return tuned_here(version)


def has_curve(config: dict, version: dict) -> bool:
    """A result of the experiment that is drawn as a curve."""
    return "curve" in config


def has_controls(config: dict, version: dict) -> bool:
    """A result of controls of what is generated."""
    every = config["experiments"].values()
    return any("controls" in one and "behaviour" in measures_of(one) for one in every)


def has_fidelity(config: dict, version: dict) -> bool:
    """A result of interventions that are read under."""
    every = (one for one in config["experiments"].values() if not is_ranked(one))
    return any("fidelity" in measures_of(one) for one in every)


def has_edits(config: dict, version: dict) -> bool:
    """Whether an edit of the base model is measured by what it changes and what it damages."""
    every = (one for one in config["experiments"].values() if not is_search(one))
    measured = (one for one in every if one["state"] == "base" and "damage" in measures_of(one))
    return any(set(one["interventions"]) - {"none"} for one in measured)


def has_rankings(config: dict, version: dict) -> bool:
    """A result of rankings."""
    return "rankings" in config


def has_scorers(config: dict, version: dict) -> bool:
    """A result that compares scorers."""
    return len(config["scorers"]) > 1


def has_directions(config: dict, version: dict) -> bool:
    """A result that compares directions."""
    return len(config["attribution"]["directions"]) > 1


def has_published(config: dict, version: dict) -> bool:
    """A result that stands beside what was published."""
    return "published" in config

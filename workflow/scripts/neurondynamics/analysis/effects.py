"""How much of the tuning's effect an intervention reproduces, from scores paired by prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from neurondynamics.analysis.statistics import Estimate, Statistics, share, wilson
from neurondynamics.data.tables import read_shards

T = TypeVar("T")

BASELINE = "none"
CONTROL = re.compile(r"(?P<of>[^~]+)~(?P<kind>random|signs)-(?P<draw>[0-9]+)")


class Control(NamedTuple):
    """What a control is of, its kind (`random` neurons or shuffled `signs`), and which draw."""

    of: str
    kind: str
    draw: int


def parse_control(intervention: str) -> Control | None:
    """Read a control's name, such as `patch-TP-~random-1`; None for what is no control.

    Raises ValueError for a name with a ~ that is not of the form NAME~random-N or NAME~signs-N.
    """
    match = CONTROL.fullmatch(intervention)
    if match is None and "~" in intervention:
        raise ValueError(
            f"{intervention!r} is no name of a control: expected NAME~random-N or NAME~signs-N"
        )
    return match and Control(match["of"], match["kind"], int(match["draw"]))


def effect_share(base: np.ndarray, edited: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Return the part of the base→tuned drop that an edit reaches: 0 like base, 1 like tuned.

    (base − edited) / (base − tuned), of mean scores; NaN where tuning did not lower them. The same
    formula serves edits of the base and of the tuned model.
    """
    return share(base - edited, base - tuned)


def read_experiments(paths: list[str], names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Read tables of experiments, each in one or more shards, in the order of `names`.

    Rows stand in the order of interventions and of prompts or windows, however many shards there
    are. Raises ValueError where an experiment is missing.
    """
    return by_experiment(read_together(paths), names, paths[0]) if paths else {}


def read_together(paths: list[str]) -> pd.DataFrame:
    """Read the shards of tables as one, its rows in the order of prompts or windows."""
    table = read_shards(paths)
    order = [column for column in ("window", "corpus", "prompt_id") if column in table]
    return table.sort_values(order, kind="stable")


def by_experiment(table: pd.DataFrame, names: Iterable[str], origin: str) -> dict:
    """Part a table by its column `experiment`; ValueError, naming the origin, where one lacks."""
    found = dict(iter(table.groupby("experiment")))
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{origin} and the others hold no experiment {', '.join(missing)}")
    return {name: found[name].reset_index(drop=True) for name in names}


def read_scores(
    paths: list[str], scorers: Iterable[str], names: Iterable[str]
) -> dict[str, dict[str, pd.DataFrame]]:
    """Read tables of scores, of any number of scorers, experiments and shards.

    Returns by scorer what `read_experiments` returns, both in the order given. Raises ValueError
    where a scorer's scores of an experiment are missing.
    """
    if not paths:
        return {scorer: {} for scorer in scorers}
    names = list(names)
    found = dict(iter(read_together(paths).groupby("scorer")))
    missing = [scorer for scorer in scorers if scorer not in found]
    if missing:
        raise ValueError(f"{paths[0]} and the others hold no scores of {', '.join(missing)}")
    return {scorer: by_experiment(found[scorer], names, paths[0]) for scorer in scorers}


def score_by_prompt(scores: pd.DataFrame, experiment: str) -> dict[str, pd.Series]:
    """Return the scores of each intervention's prompts, by `prompt_id`, in the table's order.

    `scores`: columns `intervention prompt_id score`. Raises ValueError, naming the experiment,
    where an intervention holds a prompt twice.
    """
    columns = {}
    for intervention, rows in scores.groupby("intervention", sort=False):
        twice = rows.loc[rows["prompt_id"].duplicated(), "prompt_id"]
        if len(twice):
            raise ValueError(
                f"experiment {experiment}, intervention {intervention}: "
                f"prompt {twice.iloc[0]} is scored twice"
            )
        columns[intervention] = rows.set_index("prompt_id")["score"]
    return columns


@dataclass(frozen=True)
class Effects:
    """One scorer's scores of a study's interventions, and how what compares them is estimated.

    `scores`: one row per prompt, columns (experiment, intervention), NaN where there is no score;
    `states`: the model state of each experiment. A prompt counts where all that are compared have a
    score for it.
    """

    scores: pd.DataFrame
    states: dict[str, str]
    statistics: Statistics

    @classmethod
    def pair(
        cls, scores: dict[str, pd.DataFrame], states: dict[str, str], statistics: Statistics
    ) -> Effects:
        """Lay experiments side by side by prompt, in the order given.

        `scores`: per experiment what `score_by_prompt` takes, and raises for.
        """
        columns = {
            (experiment, intervention): column
            for experiment, table in scores.items()
            for intervention, column in score_by_prompt(table, experiment).items()
        }
        laid_out = pd.DataFrame(columns).sort_index()
        names = ["experiment", "intervention"]
        laid_out.columns = pd.MultiIndex.from_tuples(list(columns), names=names)
        return cls(laid_out, states, statistics)

    def among(self, prompts: Iterable[int]) -> Effects:
        """Return the same on these prompts alone; those that no intervention has are unscored."""
        return replace(self, scores=self.scores.reindex(pd.Index(prompts)))

    def estimate_all(self) -> pd.DataFrame:
        """Return a row per (experiment, intervention), in their order, each with `_low`, `_high`:

        `score`             the mean score
        `difference_none`   edited − unedited, of the same model state
        `difference_tuned`  edited − unedited tuned model
        `effect_share`      as `effect_share`

        Each over the prompts that everything in it has a score for, which for effect shares are
        `n_paired`; NaN where the study lacks the unedited model. The mean of scores that are all 0
        or 1 is a fraction and has Wilson's interval.
        """
        edited = self.scores.to_numpy()  # (prompts, interventions)
        base, tuned = self._unedited("base"), self._unedited("tuned")  # (prompts, 1)
        of_base = [self.states[experiment] == "base" for experiment, _ in self.scores.columns]
        estimates = {
            "score": self._means(edited),
            "difference_none": self._each(np.asarray, edited - np.where(of_base, base, tuned)),
            "difference_tuned": self._each(np.asarray, edited - tuned),
            "effect_share": self._each(share, base - edited, base - tuned),
        }
        columns: dict[str, np.ndarray] = {}
        for name, estimate in estimates.items():
            columns |= estimate.columns(name)
        columns["n_paired"] = (~np.isnan(edited + base + tuned)).sum(axis=0)
        return pd.DataFrame(columns, index=self.scores.columns)

    def missing(self, state: str, names: list[str]) -> list[str]:
        """Return what the effect shares of these interventions need and the study lacks."""
        wanted = [("base", BASELINE), ("tuned", BASELINE), *((state, name) for name in names)]
        return [f"{name} ({state})" for state, name in wanted if self._find(state, name) is None]

    def estimate(
        self,
        state: str,
        names: list[str],
        combine: Callable[[np.ndarray], np.ndarray] = lambda shares: shares[..., 0],
        confidence: float | None = None,
    ) -> Estimate:
        """Estimate `combine` of the effect shares (resamples, names) of interventions on a state.

        Nothing that they need may be `missing`. By default it is the share of the first one.
        """
        trio = [*self._both(), *(self._find(state, name) for name in names)]

        def statistic(base, tuned, *edited):  # each (resamples,)
            return combine(np.stack([effect_share(base, one, tuned) for one in edited], axis=-1))

        return self.statistics.estimate(statistic, trio, confidence)

    def advantage(self, experiment: str, name: str, controls: list[str]) -> Estimate:
        """Estimate an intervention's effect share minus the mean effect share of its controls.

        Over the prompts that it, every control and both unedited models have a score for.
        """
        base, tuned = self._both()
        edited = self.scores[experiment, name].to_numpy()
        drawn = self.scores[[(experiment, control) for control in controls]].to_numpy()

        def statistic(base, tuned, edited, drawn):  # (resamples,), drawn (resamples, controls)
            shares = effect_share(base[:, None], drawn, tuned[:, None])
            return effect_share(base, edited, tuned) - shares.mean(axis=1)

        return self.statistics.estimate(statistic, [base, tuned, edited, drawn])

    def _each(self, statistic: Callable[..., np.ndarray], *arrays: np.ndarray) -> Estimate:
        """Estimate statistic(*means) of every column of arrays (prompts, columns).

        Columns that have their scores on the same prompts share their resamples, which costs about
        as much as one column.
        """
        arrays = np.broadcast_arrays(*arrays)
        complete = ~np.isnan(arrays).any(axis=0)  # (prompts, columns)
        alike: dict[bytes, list[int]] = {}
        for column, scored in enumerate(complete.T):
            alike.setdefault(scored.tobytes(), []).append(column)
        ends = np.empty((3, complete.shape[1]))
        for same in alike.values():
            ends[:, same] = self.statistics.estimate(
                statistic, [array[:, same] for array in arrays]
            )
        return Estimate(*ends)

    def _means(self, scores: np.ndarray) -> Estimate:
        """Estimate the mean of every column of scores (prompts, columns)."""
        ends = np.stack(self._each(np.asarray, scores))  # (3, columns)
        for column, values in enumerate(scores.T):
            known = values[~np.isnan(values)]
            if len(known) and np.isin(known, (0, 1)).all():
                ends[:, column] = wilson(int(known.sum()), len(known), self.statistics.confidence)
        return Estimate(*ends)

    def paired(self, experiment: str, names: list[str]) -> int:
        """Return on how many prompts both unedited models and interventions all have a score."""
        edited = self.scores[[(experiment, name) for name in names]].to_numpy()
        return self._complete([*self._both(), *edited.T])

    def counts(self, state: str, names: list[str]) -> tuple[int, int]:
        """Return on how many prompts `estimate` rests, and how many have not all of its scores."""
        known = self._complete([*self._both(), *(self._find(state, name) for name in names)])
        return known, len(self.scores) - known

    def _complete(self, columns: list[np.ndarray]) -> int:
        return int((~np.isnan(columns).any(axis=0)).sum())

    def _both(self) -> list[np.ndarray]:
        """Return the scores of both unedited models, each (prompts,)."""
        return [self._unedited(state)[:, 0] for state in ("base", "tuned")]

    def _unedited(self, state: str) -> np.ndarray:
        """Return the scores (prompts, 1) of the unedited model, NaN where the study lacks it."""
        found = self._find(state, BASELINE)
        return np.full((len(self.scores), 1), np.nan) if found is None else found[:, None]

    def _find(self, state: str, name: str) -> np.ndarray | None:
        found = {
            column[0]: self.scores[column].to_numpy()
            for column in self.scores.columns
            if column[1] == name and self.states[column[0]] == state
        }
        return the_one(name, state, found)


def the_one(name: str, state: str, found: dict[str, T]) -> T | None:
    """Return what the one experiment holds that has an intervention on a state; None if none has.

    Raises ValueError, naming the experiments, where several do.
    """
    if len(found) > 1:
        raise ValueError(
            f"intervention {name!r} on the {state} model stands in the experiments "
            f"{', '.join(found)}; keep or rename one"
        )
    return next(iter(found.values()), None)


def read_effects(
    paths: list[str], scorers: Iterable[str], states: dict[str, str], statistics: Statistics
) -> dict[str, Effects]:
    """Read the scores of a study's experiments: the effects of their interventions by scorer.

    `paths`: tables of scores, any number per experiment; `states`: the model state of each one.
    Raises ValueError as `read_scores` and `Effects.pair` do.
    """
    return {
        scorer: Effects.pair(scores, states, statistics)
        for scorer, scores in read_scores(paths, scorers, states).items()
    }

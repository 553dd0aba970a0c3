"""How much of the tuning's effect an intervention reproduces, from scores paired by prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neurondynamics.analysis.statistics import Estimate, bootstrap, share

BASELINE = "none"


def effect_share(base: np.ndarray, edited: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Return the part of the base→tuned drop that an edit reaches: 0 like base, 1 like tuned.

    (base − edited) / (base − tuned), of mean toxicities; NaN where tuning did not lower them. The
    same formula serves edits of the base and of the tuned model.
    """
    return share(base - edited, base - tuned)


@dataclass(frozen=True)
class Effects:
    """The scores of a study's interventions, and the bootstrap of their effect shares.

    `toxicity`: one row per prompt, columns (experiment, intervention), NaN where there is no score;
    `states`: the model state of each experiment. A prompt counts where the intervention and the
    unedited base and tuned models all have a score for it.
    """

    toxicity: pd.DataFrame
    states: dict[str, str]
    samples: int
    confidence: float
    seed: int

    @classmethod
    def pair(cls, scores: dict[str, pd.DataFrame], **rest) -> Effects:
        """Lay experiments side by side by prompt, in the order given.

        `scores`: per experiment, columns `intervention corpus prompt_id toxicity`. Raises
        ValueError where an intervention holds a prompt twice.
        """
        columns = {}
        for experiment, table in scores.items():
            prompts = table[table["corpus"] == "prompts"]
            for intervention, rows in prompts.groupby("intervention", sort=False):
                twice = rows.loc[rows["prompt_id"].duplicated(), "prompt_id"]
                if len(twice):
                    raise ValueError(
                        f"experiment {experiment}, intervention {intervention}: "
                        f"prompt {twice.iloc[0]} is scored twice"
                    )
                columns[experiment, intervention] = rows.set_index("prompt_id")["toxicity"]
        return cls(pd.DataFrame(columns).sort_index(), **rest)

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
        columns = [self._find(state, name) for name in names]
        trio = [self._find("base", BASELINE), self._find("tuned", BASELINE), *columns]

        def statistic(base, tuned, *edited):  # each (resamples,)
            return combine(np.stack([effect_share(base, one, tuned) for one in edited], axis=-1))

        return bootstrap(statistic, trio, self.samples, confidence or self.confidence, self.seed)

    def _find(self, state: str, name: str) -> np.ndarray | None:
        found = [
            column
            for column in self.toxicity.columns
            if column[1] == name and self.states[column[0]] == state
        ]
        if len(found) > 1:
            raise ValueError(
                f"intervention {name!r} on the {state} model stands in the experiments "
                f"{', '.join(experiment for experiment, _ in found)}; keep or rename one"
            )
        return self.toxicity[found[0]].to_numpy() if found else None

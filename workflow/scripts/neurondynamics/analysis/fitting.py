"""Fitting directions on labelled features, and measuring them on held-out ones.

Apart from `directions`, which most scripts read: scikit-learn takes a second to import.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurondynamics.analysis.directions import Direction

METHODS = ("probe", "mean_difference")
REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths tried for the probe


def fit_direction(
    features: np.ndarray,
    toward: np.ndarray,
    groups: np.ndarray,
    method: str,
    seed: int,
    *,
    paired: bool,
) -> Direction:
    """Fit a direction on features (n, d_model), labels (n,) and numbers of groups (n,).

    A group holds the texts that continue one prompt, and it is `paired` if it has some of both
    labels; otherwise it holds one text, as often as it occurs.

    probe            a logistic regression on standardised features, both classes weighing the
                     same, its regularisation chosen by cross-validation, over groups if they are
                     paired; the standardisation is folded into the vector and the intercept
    mean_difference  the mean of the features labelled toward minus that of the others; if groups
                     are paired, that of each group, averaged over groups, so that what a group's
                     texts have in common cancels. The intercept comes from a logistic regression
                     along it

    Raises ValueError for an unknown method or where a class has fewer than two texts.
    """
    counts = np.bincount(toward, minlength=2)
    if counts.min() < 2:
        raise ValueError(
            "a direction needs texts of both labels, two or more of each; "
            f"{counts[1]} of {len(toward)} are labelled toward"
        )
    if method == "probe":
        return _probe(features, toward, groups if paired else None, seed)
    if method == "mean_difference":
        return _mean_difference(features, toward, groups if paired else None)
    raise ValueError(f"unknown direction method {method!r}; known are {', '.join(METHODS)}")


def _probe(features, toward, groups, seed) -> Direction:
    if groups is None:
        number = min(5, np.bincount(toward).min())
        folds = StratifiedKFold(number, shuffle=True, random_state=seed)
    else:
        folds = GroupKFold(min(5, len(np.unique(groups))), shuffle=True, random_state=seed)
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=5000, class_weight="balanced")
    )
    search = GridSearchCV(
        classifier, {"logisticregression__C": REGULARISATION}, scoring="neg_log_loss", cv=folds
    )
    scaler, regression = search.fit(features, toward, groups=groups).best_estimator_
    vector = regression.coef_[0] / scaler.scale_
    return Direction(vector, float(regression.intercept_[0] - vector @ scaler.mean_))


def _mean_difference(features, toward, groups) -> Direction:
    if groups is None:
        means = [features[rows].mean(axis=0, dtype=np.float64) for rows in (toward, ~toward)]
        vector = means[0] - means[1]  # (d_model,)
    else:
        means = pd.DataFrame(features).groupby([groups, toward]).mean()
        differences = (means.xs(True, level=1) - means.xs(False, level=1)).dropna()
        vector = differences.to_numpy().mean(axis=0)  # (d_model,)
    along = (features @ vector)[:, None]
    scale = along.std()
    line = LogisticRegression(class_weight="balanced").fit(along / scale, toward)
    slope = line.coef_[0, 0] / scale
    return Direction(vector, float(line.intercept_[0] / slope))


def hold_out(groups: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into fitting and held-out indices so that no group stands on both sides."""
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    return next(splitter.split(groups, groups=groups))


def quality(direction: Direction, features: np.ndarray, toward: np.ndarray) -> dict[str, float]:
    """Measure a direction on texts it was not fitted on, against always guessing the majority.

    Raises ValueError if all of them have one label.
    """
    if len(np.unique(toward)) < 2:
        raise ValueError(
            f"the {len(toward)} held-out texts all have one label; raise held_out or bring more "
            "texts of the rarer label"
        )
    scores = features @ direction.vector + direction.intercept
    return {
        "accuracy": float(accuracy_score(toward, scores > 0)),
        "balanced_accuracy": float(balanced_accuracy_score(toward, scores > 0)),
        "majority_accuracy": float(max(toward.mean(), 1 - toward.mean())),
        "auroc": float(roc_auc_score(toward, scores)),
    }

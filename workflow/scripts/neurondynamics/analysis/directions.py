"""Directions of toxicity: the study's, fitted on labelled features and measured on held-out
prompts, and the others that steering compares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurondynamics.data.records import reading, replacing

METHODS = ("probe", "mean_difference")
REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths tried for the probe


@dataclass(frozen=True)
class Direction:
    """w, (d_model,), and the intercept b of the classifier that calls x toxic if x·w + b > 0."""

    vector: np.ndarray
    intercept: float


def fit_direction(
    features: np.ndarray, toxic: np.ndarray, prompts: np.ndarray, method: str, seed: int
) -> Direction:
    """Fit a direction on features (n, d_model), labels (n,) and prompt numbers (n,).

    probe            a logistic regression on standardised features, both classes weighing the
                     same, its regularisation chosen by cross-validation over prompts; the
                     standardisation is folded into the vector and the intercept
    mean_difference  per prompt the mean of the toxic minus the mean of the other features,
                     averaged over prompts; the intercept comes from a logistic regression along
                     it. What a prompt's texts have in common cancels

    Raises ValueError for an unknown method or where a class is empty.
    """
    if len(np.unique(toxic)) < 2:
        raise ValueError("the direction needs toxic and other texts, but all have one label")
    if method == "probe":
        return _probe(features, toxic, prompts, seed)
    if method == "mean_difference":
        return _mean_difference(features, toxic, prompts)
    raise ValueError(f"unknown direction method {method!r}; known are {', '.join(METHODS)}")


def _probe(features, toxic, prompts, seed) -> Direction:
    folds = GroupKFold(min(5, len(np.unique(prompts))), shuffle=True, random_state=seed)
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=5000, class_weight="balanced")
    )
    search = GridSearchCV(
        classifier, {"logisticregression__C": REGULARISATION}, scoring="neg_log_loss", cv=folds
    )
    scaler, regression = search.fit(features, toxic, groups=prompts).best_estimator_
    vector = regression.coef_[0] / scaler.scale_
    return Direction(vector, float(regression.intercept_[0] - vector @ scaler.mean_))


def _mean_difference(features, toxic, prompts) -> Direction:
    means = pd.DataFrame(features).groupby([prompts, toxic]).mean()
    differences = (means.xs(True, level=1) - means.xs(False, level=1)).dropna()
    vector = differences.to_numpy().mean(axis=0)  # (d_model,)
    along = (features @ vector)[:, None]
    scale = along.std()
    line = LogisticRegression(class_weight="balanced").fit(along / scale, toxic)
    slope = line.coef_[0, 0] / scale
    return Direction(vector, float(line.intercept_[0] / slope))


def embedding_difference(toxic: Sequence[np.ndarray], neutral: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean unembedding of toxic words minus that of neutral ones, (d_model,).

    A word is given as the unembedding rows of its tokens, (tokens, d_model), which are averaged
    first, so that every word weighs the same (arXiv 2411.06424v3).

    Raises ValueError if there are no words of a kind.
    """
    if not toxic or not neutral:
        raise ValueError("the difference of embeddings needs toxic and neutral words")
    means = [np.mean([rows.mean(axis=0) for rows in words], axis=0) for words in (toxic, neutral)]
    return means[0] - means[1]


def singular_direction(values: np.ndarray) -> np.ndarray:
    """Return what value vectors (n, d_model) share most: their first singular vector, (d_model,).

    Each vector is normalised first (Lee et al., arXiv 2401.01967). Of the two signs the one is
    taken whose mean cosine with the vectors is positive.

    Raises ValueError if a value vector is zero or not finite.
    """
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("a value vector is zero or not finite, so it has no direction")
    units = values / norms
    singular = np.linalg.svd(units, full_matrices=False).Vh[0]  # (d_model,)
    return -singular if (units @ singular).sum() < 0 else singular


def hold_out(prompts: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into fitting and held-out indices so that no prompt stands on both sides."""
    splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    return next(splitter.split(prompts, groups=prompts))


def quality(direction: Direction, features: np.ndarray, toxic: np.ndarray) -> dict[str, float]:
    """Measure a direction on texts it was not fitted on, against always guessing the majority."""
    scores = features @ direction.vector + direction.intercept
    return {
        "accuracy": float(accuracy_score(toxic, scores > 0)),
        "balanced_accuracy": float(balanced_accuracy_score(toxic, scores > 0)),
        "majority_accuracy": float(max(toxic.mean(), 1 - toxic.mean())),
        "auroc": float(roc_auc_score(toxic, scores)),
    }


def write_direction(path: str | Path, direction: Direction) -> None:
    """Write a direction as safetensors: `vector` (d_model,) and `intercept`, in float64."""
    write_directions(
        path, {"vector": direction.vector, "intercept": np.array([direction.intercept])}
    )


def read_direction(path: str | Path) -> Direction:
    """Read what `write_direction` wrote."""
    tensors = read_directions(path)
    return Direction(tensors["vector"], float(tensors["intercept"][0]))


def write_directions(path: str | Path, directions: dict[str, np.ndarray]) -> None:
    """Write named vectors, (d_model,), as safetensors in float64."""
    with replacing(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(v, np.float64) for name, v in directions.items()},
            temporary,
        )


def read_directions(path: str | Path) -> dict[str, np.ndarray]:
    """Read what `write_directions` wrote. Raises ValueError, naming the file, if it is damaged."""
    with reading(path):
        return load_file(path)

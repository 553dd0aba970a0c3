"""What the attribution says where there is nothing to find: the nulls of claims about groups.

random_direction  the same models along directions that mean nothing
swapped           base and tuned model swapped on a random half of the prompts, along the study's
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurondynamics.analysis.attribution import GROUPS, classify
from neurondynamics.data.hdf5 import (
    create_dataset,
    create_hdf5,
    open_hdf5,
    read_attributes,
    read_dataset,
    write_attribute,
)
from neurondynamics.data.provenance import UNRECORDED, check_made, plain

KINDS = ("random_direction", "swapped")
# of all neurons those that write more toward the direction after tuning, and of the TOP nearest to
# it those that are negatively activated before and after
FRACTIONS = ("increasing", "negative_before", "negative_after")
TOP = 100  # neurons, as in the paper's figure 4


def balanced_flips(generator: np.random.Generator, draws: int, prompts: int) -> np.ndarray:
    """Return which half of the prompts has its models swapped in each draw, (draws, prompts).

    Of an odd number, half of all but one. What is the same on all prompts is gone where as many are
    swapped as are not; of other numbers a part of it would be left.
    """
    order = generator.permuted(np.tile(np.arange(prompts), (draws, 1)), axis=1)
    return order < prompts // 2


class Null(NamedTuple):
    """Draws of one null, in float64.

    reductions  per prompt, layer and group, (draws, prompts, layers, groups)
    fractions   of neurons, (draws, FRACTIONS)
    """

    reductions: np.ndarray
    fractions: np.ndarray


class Draws:
    """Nulls that are filled layer by layer.

    `flips`, (draws, prompts), says which prompts have their models swapped; there are as many
    random directions. `layers` and `neurons` are the models'.
    """

    def __init__(self, flips: np.ndarray, layers: int, neurons: int):
        draws, prompts = flips.shape
        shape = draws, prompts, layers, len(GROUPS)
        self.reductions = {kind: np.zeros(shape) for kind in KINDS}
        # of each neuron: whether its reduction, and its activations before and after, are negative
        self._negative = {kind: np.zeros((draws, 3, layers, neurons), bool) for kind in KINDS}
        self._flips = flips.astype(np.float64)

    def add(
        self,
        layer: int,
        before: np.ndarray,
        after: np.ndarray,
        cosines: tuple[np.ndarray, np.ndarray],
        along: tuple[np.ndarray, np.ndarray],
        along_tuned: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Take in a layer: mean activations on each prompt, (prompts, d_mlp), of both models; and,
        of the random directions, (draws, d_mlp), and of the study's, (d_mlp,), the cosines of the
        value vectors and the projections of those of both models."""
        means = before.mean(0), after.mean(0)
        for draw, flip in enumerate(self._flips):
            of_draw = cosines[0][draw], along[0][draw], along_tuned[0][draw]
            self._put("random_direction", draw, layer, means, of_draw, (before, after))
            swap = flip[:, None] > 0
            own = np.where(swap, after, before), np.where(swap, before, after)
            swapped = own[0].mean(0), own[1].mean(0)
            # what a swapped prompt's models write is written by their own vectors
            written = before * along[1] - after * along_tuned[1]
            contributions = np.where(swap, -written, written)
            groups = classify(cosines[1], *swapped)
            self._keep("swapped", draw, layer, contributions, groups, swapped)

    def _put(self, kind: str, draw: int, layer: int, means, of_draw, activations) -> None:
        cosine, along, along_tuned = of_draw
        contributions = activations[0] * along - activations[1] * along_tuned
        self._keep(kind, draw, layer, contributions, classify(cosine, *means), means)

    def _keep(self, kind: str, draw: int, layer: int, contributions, groups, means) -> None:
        membership = np.eye(len(GROUPS))[groups]  # (d_mlp, groups)
        self.reductions[kind][draw, :, layer] = contributions @ membership
        negative = contributions.mean(0) < 0, means[0] < 0, means[1] < 0
        self._negative[kind][draw, :, layer] = negative

    def finish(self, cosines: tuple[np.ndarray, np.ndarray]) -> dict[str, Null]:
        """Return the nulls, by kind. `cosines` are those of all value vectors with the random
        directions, (draws, layers, d_mlp), and with the study's, (layers, d_mlp)."""
        found = {}
        for kind, of_kind in zip(KINDS, cosines, strict=True):
            negative = self._negative[kind].reshape(*self._negative[kind].shape[:2], -1)
            every = np.broadcast_to(of_kind, (len(negative), *of_kind.shape[-2:]))
            top = np.argsort(-every.reshape(len(negative), -1), axis=1, kind="stable")[:, :TOP]
            of_top = np.take_along_axis(negative[:, 1:], top[:, None], 2).mean(2)  # (draws, 2)
            fractions = np.column_stack([negative[:, 0].mean(1), of_top])
            found[kind] = Null(self.reductions[kind], fractions)
        return found


def write_nulls(path: str | Path, nulls: Mapping[str, Null], made: Mapping = UNRECORDED) -> None:
    """Write nulls as an HDF5 file, a group for each kind; `made` records what they are made from.

    Raises OSError where the disk has no room for them.
    """
    size = sum(values.nbytes for null in nulls.values() for values in null)
    with create_hdf5(path, size) as (file, _):
        for name, value in made.items():
            write_attribute(file, name, plain(value))
        for kind, null in nulls.items():
            for name, values in null._asdict().items():
                chunks = (1, *values.shape[1:])
                create_dataset(file, f"{kind}/{name}", values.shape, "f8", chunks)[...] = values


def read_nulls(path: str | Path, made: Mapping = UNRECORDED) -> dict[str, Null]:
    """Read what `write_nulls` wrote; `made` is what it should record.

    Raises ValueError, naming the file, if it is damaged or made from other things.
    """
    with open_hdf5(path) as file:
        check_made(path, read_attributes(file), made)
        return {
            kind: Null(*(read_dataset(file, f"{kind}/{name}") for name in Null._fields))
            for kind in KINDS
        }

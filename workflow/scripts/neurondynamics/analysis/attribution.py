"""How much each neuron writes toward the behaviour before and after tuning, and its group."""

from __future__ import annotations

import numpy as np

REDUCING = ("TP-", "AN-", "TN+", "AP+")
INCREASING = ("TP+", "AN+", "TN-", "AP-")
UNCHANGED = "unchanged"
GROUPS = (*REDUCING, *INCREASING, UNCHANGED)


def classify(
    cosine: np.ndarray, activation_base: np.ndarray, activation_tuned: np.ndarray
) -> np.ndarray:
    """Return the group of each neuron, an index into GROUPS, (d_mlp,).

    T/A is the sign of cos(v_base, w); P/N of the mean base activation, 0 counting as positive;
    +/- whether its magnitude grows: with d = m_base − m_tuned, TP- and AP- have d > 0, TN+ and
    AN+ too, and TP+, AP+, TN-, AN- have d < 0 (arXiv 2411.06424, section 4). A neuron with d = 0
    or cosine 0 is "unchanged", so that the groups partition the neurons.
    """
    difference = activation_base - activation_tuned
    positive = activation_base >= 0
    shrinks = (difference > 0) == positive  # toward zero, or through it
    names = np.char.add(
        np.char.add(np.where(cosine > 0, "T", "A"), np.where(positive, "P", "N")),
        np.where(shrinks, "-", "+"),
    )
    names = np.where((difference == 0) | (cosine == 0), UNCHANGED, names)
    order = np.argsort(GROUPS)
    return order[np.searchsorted(np.asarray(GROUPS)[order], names)]


def sum_by_group(contributions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum (prompts, d_mlp) over the neurons of each group: (prompts, len(GROUPS)) float64."""
    membership = np.eye(len(GROUPS))[groups]  # (d_mlp, groups)
    return contributions @ membership

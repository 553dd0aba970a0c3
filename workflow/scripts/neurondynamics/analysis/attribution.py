"""How much each unit writes toward the behaviour before and after tuning, and a neuron's group."""

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


def reduction_parts(
    before: np.ndarray,
    after: np.ndarray,
    same: np.ndarray,
    along: np.ndarray,
    along_tuned: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what inputs of a projection write along the direction, and the parts of its reduction,
    all (inputs,); each model's activations meet its own vectors.

    With activations m and u = v·w/‖w‖ of the base model (b: `before`, `along`), of the tuned model
    on the base's text (s: `same`) and of the tuned model on its own text (t: `after`,
    `along_tuned`), the reduction m_b·u_b − m_t·u_t is the sum of

        activation  (m_b − m_s)·(u_b + u_t)/2   what the unit reads and so how far it opens
        value       (m_b + m_s)/2·(u_b − u_t)   its vector turned or shrank
        context     (m_s − m_t)·u_t             the tuned model writes, and then reads, other text

    The first two share m_b·u_b − m_s·u_t, the reduction on one text. Changing the activation first
    or the vector first gives different parts; each part here is the mean of the two orders, which
    is its Shapley value, so no order is preferred.
    """
    written_before, written_after = before * along, after * along_tuned
    return {
        "projection_base": written_before,
        "projection_tuned": written_after,
        "projection_same_text": same * along_tuned,
        "reduction": written_before - written_after,
        "reduction_activation": (before - same) * (along + along_tuned) / 2,
        "reduction_value": (before + same) / 2 * (along - along_tuned),
        "reduction_context": (same - after) * along_tuned,
    }


def sum_by_group(contributions: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum (prompts, d_mlp) over the neurons of each group: (prompts, len(GROUPS)) float64."""
    membership = np.eye(len(GROUPS))[groups]  # (d_mlp, groups)
    return contributions @ membership

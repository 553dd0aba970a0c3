"""The account of a tuning as a table: what each part carries of it, directly and causally."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neurondynamics.analysis.fidelity import beyond_rounding, kl_share
from neurondynamics.analysis.statistics import ENDS, Statistics

MEASURES = ("causal_alone", "causal_without", "weights_alone", "weights_without")
ALONE = ("causal_alone", "weights_alone")
# what parts lie before, in and behind the layers; their shares, with those of all layers of the
# modules, do not add up to the whole but for the interaction
PROJECTIONS = "output_projections"
PARTS = ("embeddings", "attention", "mlp", PROJECTIONS, "norms", "final_norm", "unembedding")
WHOLE, INTERACTION, RESIDUE = "whole", "interaction", "residue"
NAMES = ["part", "layer"]


def estimate_account(measured: pd.DataFrame, statistics: Statistics) -> pd.DataFrame:
    """Return a row per part and layer with `kl_share` by each measure, and its interval.

    `measured`: a row per part, layer (missing where it is of all or of none), measure and prompt,
    columns `part layer measure prompt_id kl kl_unedited kl_noise`. The row `interaction` holds, for
    the measures of parts alone, what the whole is more than the sum of the parts of the model, of
    which attention and MLPs are taken layer by layer. Measured parts that are of no layer come
    first, in the order of PARTS. All is NaN where the models are not `beyond_rounding`.
    """
    keys = list(zip(measured["part"], measured["layer"].fillna(-1), strict=True))
    measured = measured.assign(key=[*map(tuple, keys)])
    by_prompt = measured.drop_duplicates("prompt_id").set_index("prompt_id").sort_index()
    unedited = by_prompt["kl_unedited"].to_numpy()
    rows: dict[tuple, dict] = {key: {} for key in sorted(set(keys), key=_place)}
    rows[INTERACTION, -1] = {}
    for measure in MEASURES:
        of_measure = measured[measured["measure"] == measure].groupby("key", sort=False)
        wide = pd.DataFrame({key: r.set_index("prompt_id")["kl"] for key, r in of_measure})
        found = [*wide.columns]
        parts, whole = (
            _add_up(found, measure),
            [n for n, key in enumerate(found) if key[0] == WHOLE],
        )

        def shares(edited: np.ndarray, before: np.ndarray, parts=parts, whole=whole) -> np.ndarray:
            each = kl_share(before[:, None], edited)  # (resamples, keys)
            of_whole, of_parts = (each[:, some].sum(1, keepdims=True) for some in (whole, parts))
            return np.concatenate([each, of_whole - of_parts], 1)

        estimate = statistics.estimate(shares, [wide.sort_index().to_numpy(), unedited])
        for number, key in enumerate([*found, (INTERACTION, -1)]):
            if number < len(found) or measure in ALONE:
                one = (part[number] for part in estimate)
                rows[key] |= {measure + end: value for end, value in zip(ENDS, one, strict=True)}
    index = pd.MultiIndex.from_tuples(rows, names=NAMES)
    columns = [measure + end for measure in MEASURES for end in ENDS]
    table = pd.DataFrame(list(rows.values()), index=index, columns=columns)
    if not beyond_rounding(unedited, by_prompt["kl_noise"].to_numpy()):
        table[:] = np.nan
    return table.assign(n=len(by_prompt))


def _place(key: tuple[str, int]) -> tuple:
    part, layer = key
    return layer, -1 if part == WHOLE else PARTS.index(part)


def _add_up(keys: list[tuple[str, int]], measure: str) -> list[int]:
    """Return the places of the parts that a model consists of: attention and MLPs by layer, which
    by weights have the output projections in them."""
    inside = (PROJECTIONS,) if measure.startswith("weights") else ()
    by_layer = {part for part, layer in keys if layer >= 0}
    return [
        place
        for place, (part, layer) in enumerate(keys)
        if part not in (WHOLE, *inside) and (layer >= 0) == (part in by_layer)
    ]


def direct_shares(shifts: pd.DataFrame) -> pd.DataFrame:
    """Return, by part and layer, the share of the residual shift along the direction that each
    part adds, `direct` with its interval; it adds up but for the row `residue`.

    `shifts`: the table of the shift of the residual stream, columns `component layer share
    share_low share_high`.
    """
    names = {"attention_all": "attention", "mlp_all": "mlp", "total": WHOLE}
    index = [shifts["component"].replace(names), shifts["layer"].fillna(-1).astype(int)]
    table = shifts[[f"share{end}" for end in ENDS]].set_axis(
        [f"direct{end}" for end in ENDS], axis=1
    )
    return table.set_index(pd.MultiIndex.from_arrays(index, names=NAMES))

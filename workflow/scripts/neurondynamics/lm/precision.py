"""What is left of a change of weights in the precision that a study reads models in."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import NoReturn

import torch

from neurondynamics.data.files import reading, replacing
from neurondynamics.lm.stored import StoredWeights

logger = logging.getLogger(__name__)

RECORD = "precision.json"
NARROW = "bfloat16"  # of the precisions that a study can read in, the one that rounds
PART = 2**22  # weights at a time, of which there are copies in float64
LOST = 0.1  # of a change, by relative norm, at most


def record_change(base: str | Path, tuned: str | Path) -> None:
    """Write into a tuned model's folder how much of its change is lost if it is read in bfloat16.

    With b and t the weights as they are stored, and r the rounding, that is
    ||(r(t) - r(b)) - (t - b)|| / ||t - b|| over all weights. Raises ValueError if they are
    equal, or one is no number.
    """
    change, lost = 0.0, 0.0
    first, second = StoredWeights(base), StoredWeights(tuned)
    for name in second.names_beside(first):
        before, after = first[name], second[name]
        if before.shape != after.shape:
            raise ValueError(
                f"{name} is {list(after.shape)} in the tuned version, {list(before.shape)} in base"
            )
        for old, new in zip(*(x.flatten().split(PART) for x in (before, after)), strict=True):
            moved = new.double() - old.double()
            change += float(moved.square().sum())
            rounded = new.bfloat16().double() - old.bfloat16().double()
            lost += float((rounded - moved).square().sum())
        if not math.isfinite(change):
            _refuse_no_number(name, before, after)
    if change == 0:
        raise ValueError(
            "the tuned version's weights are those of the base model; nothing was tuned (an "
            "adapter whose lora_B is zero was not trained, a failed merge leaves the base model)"
        )
    share = math.sqrt(lost / change)
    logger.info("of the change, %.4g in norm, %.2g is lost in %s", math.sqrt(change), share, NARROW)
    with replacing(Path(tuned) / RECORD) as temporary:
        temporary.write_text(json.dumps({NARROW: share}) + "\n", encoding="utf-8")


def _refuse_no_number(name: str, before: torch.Tensor, after: torch.Tensor) -> NoReturn:
    base = not bool(torch.isfinite(before).all())
    weights = before if base else after
    raise ValueError(
        f"{int((~torch.isfinite(weights)).sum())} of the {weights.numel()} weights {name} of the "
        f"{'base model' if base else 'tuned version'} are NaN or infinite, and so is all that it "
        "computes: the tuning diverged or the file is damaged; take an earlier checkpoint, or "
        "fetch it again"
    )


def refuse_lost(folder: str | Path, dtype: str) -> None:
    """Raise ValueError if more than a tenth of a tuned model's change is lost in a precision."""
    path = Path(folder) / RECORD
    if dtype != NARROW or not path.is_file():
        return
    with reading(path):
        share = float(json.loads(path.read_text(encoding="utf-8"))[NARROW])
    if not share <= LOST:
        raise ValueError(
            f"model.dtype: {NARROW} rounds away what tuning changed: of the difference between "
            f"the tuned model and the base model, {share:.0%} in norm is lost, and at most "
            f"{LOST:.0%} may be. Set model.dtype to float32, which takes twice the memory"
        )

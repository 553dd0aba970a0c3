"""What gradients predict of a unit, beside what happens when it is moved a little."""

import copy

import numpy as np
import pandas as pd
import plain
import pytest
import torch
from measure_gradients import in_rows, units_of
from neurondynamics.interventions.transplant import Transplant, transplanted
from neurondynamics.limits import MODULES_OF
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.gradients import (
    Batch,
    divergence,
    moved_toward,
    patch_gradients,
    transplant_gradients,
)
from neurondynamics.lm.unit_weights import OfUnits, sum_over_weights
from tiny import FAMILIES, LAYERS, VARIANTS, build_model, nudge

# of unequal lengths, one of a single token and one with a continuation of a single token
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [3], [14, 15]]
WRITTEN = [[4, 5, 6], [7, 8], [9, 10, 11, 12], [13]]
# of the way that a unit is moved to see; the norms or rotations of other families compute in
# float32 whatever the model is in, and a small step is lost in their rounding
EXACT = ("falcon", "falcon-alibi", "falcon-new", "gpt2", "gpt_neox", "gpt_neox-sequential", "opt")
STEPS = {True: 1e-3, False: 0.02}
UNITS = {"neurons": (1, 5), "heads": (0, 1), "key_values": (2, 0)}


def pair_of(family):
    """A model and one that was tuned from it, in float64."""
    base = build_model(family).double()
    return base, nudge(copy.deepcopy(base), 0.02)


def kl(tuned, model, prompt, new, changes=()):
    """KL(tuned ‖ model) over the new-token positions of one text, in nats per token."""
    start = len(prompt) - 1
    ids = [*prompt, *new[:-1]]
    p = plain.logits(tuned, ids)[start:].log_softmax(-1)
    with plain.changed(changes, start):
        q = plain.logits(model, ids)[start:].log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def batch():
    return Batch.of(PROMPTS, WRITTEN, torch.device("cpu"))


def weights_of(model):
    return dict(model.named_parameters(remove_duplicate=False))


def target_of(model):
    with torch.no_grad():
        return batch().read(model)


def falls(measure, family):
    """By how much a divergence falls per way, where `measure` gives it at a step of a size."""
    size = STEPS[family in EXACT]
    return -(measure(size) - measure(-size)) / (2 * size)


def close(found, expected, numbers, family):
    """Whether a prediction, one of several numbers, is what was measured."""
    near = 1e-6 if family in EXACT else 1e-2
    return abs(float(found) - expected) < near * (abs(expected) + float(numbers.abs().max()) / 50)


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_divergence_is_that_of_each_text_alone(family):
    base, tuned = pair_of(family)
    with torch.no_grad():
        found, _ = divergence(tuned, target_of(tuned), base, batch().read(base), batch())
        expected = [kl(tuned, base, p, c) for p, c in zip(PROMPTS, WRITTEN, strict=True)]
        same, gradient = divergence(tuned, target_of(tuned), tuned, target_of(tuned), batch())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(same).max() < 1e-12
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_a_transplant_is_predicted(family):
    base, tuned = pair_of(family)
    found = transplant_gradients(base, weights_of(base), tuned, target_of(tuned), batch())
    assert not any(parameter.requires_grad for parameter in base.parameters())

    def measure(size, **parts):
        moved = transplanted(base, tuned, Transplant(**parts), size)
        return sum(kl(tuned, moved, p, c) for p, c in zip(PROMPTS, WRITTEN, strict=True))

    with torch.no_grad():
        for kind, unit in UNITS.items():
            numbers = getattr(found, kind)
            expected = falls(lambda size: measure(size, **{kind: [unit]}), family)  # noqa: B023
            assert close(numbers[unit], expected, numbers, family), kind
        everything = [*np.ndindex(*found.neurons.shape)]
        expected = falls(lambda size: measure(size, neurons=everything), family)
    assert float(found.neurons.sum()) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_a_patch_is_predicted_on_each_text(family):
    base, tuned = pair_of(family)
    neurons, heads = patch_gradients(base, tuned, batch())
    assert neurons.shape[:2] == heads.shape[:2] == (len(PROMPTS), LAYERS)
    blocks = plain.blocks(base), plain.blocks(tuned)
    width = dissect(base).layers[0].head_width
    inputs = {"neurons": slice(5, 6), "heads": slice(width, 2 * width)}
    for row, (prompt, new) in enumerate(zip(PROMPTS, WRITTEN, strict=True)):
        for kind, part, numbers in (("neurons", plain.down, neurons), ("heads", plain.out, heads)):
            layer, unit = UNITS[kind]
            site, other = (part(model[layer]) for model in blocks)
            with torch.no_grad():
                heard = plain.read(tuned, prompt, new, [other])
                expected = falls(
                    lambda size: kl(
                        tuned, base, prompt, new,  # noqa: B023
                        [(site, "input", toward(heard, inputs[kind], size))],  # noqa: B023
                    ),
                    family,
                )  # fmt: skip
            assert close(numbers[row, layer, unit], expected, numbers, family)


def toward(heard, inputs, size):
    """A change of some inputs toward what the other model's are, by a part of the way."""

    def move(values):
        moved = values.clone()
        moved[..., inputs] += size * (heard - values)[..., inputs]
        return moved

    return move


def test_points_of_the_path_add_up_to_what_all_weights_do():
    """But for embeddings, norms and biases of projections, which belong to no unit."""
    base = build_model("llama").double()
    tuned = copy.deepcopy(base)
    for layer in dissect(tuned).layers:
        for module in (
            *layer.keys,
            layer.down,
            layer.out,
            *(part.projection for part in layer.qkv),
        ):
            nudge(module, 0.02, seed=2)
    totals = []
    for points in (1, 4):
        total = OfUnits.zeros(dissect(base))
        for place, weight in zip(*np.polynomial.legendre.leggauss(points), strict=True):
            between = moved_toward(copy.deepcopy(base), tuned, (place + 1) / 2)
            some = transplant_gradients(between, weights_of(base), tuned, target_of(tuned), batch())
            total = OfUnits(*(a + weight / 2 * b for a, b in zip(total, some, strict=True)))
        totals.append(float(sum(numbers.sum() for numbers in total)))
    expected = sum(kl(tuned, base, p, c) for p, c in zip(PROMPTS, WRITTEN, strict=True))
    assert totals[1] == pytest.approx(expected, rel=0.02)
    assert abs(totals[1] - expected) < abs(totals[0] - expected)


@pytest.mark.parametrize("family", FAMILIES + VARIANTS)
def test_weights_of_units_are_those_that_a_transplant_moves(family):
    base, tuned = pair_of(family)
    table = units_of(base, tuned)
    assert table["module"].unique().tolist() == ["mlp", "attention", "key_values"]
    for kind, (layer, unit) in UNITS.items():
        at = (MODULES_OF[kind], layer, unit)
        row = table.set_index(["module", "layer", "unit"]).loc[at]
        moved = transplanted(base, tuned, Transplant(**{kind: [(layer, unit)]}))
        pairs = zip(base.parameters(), moved.parameters(), strict=True)
        apart = torch.cat([(b - a).flatten() for a, b in pairs])
        assert int((apart != 0).sum()) == row["parameters"]
        assert float(apart.norm()) == pytest.approx(row["weight_change"], rel=1e-9)


def test_units_are_one_after_the_other():
    base = build_model("llama")
    held = sum_over_weights(dissect(base), torch.ones_like)
    numbers = in_rows(OfUnits(*(torch.zeros_like(x) + i for i, x in enumerate(held))))
    kinds = pd.Series(numbers).map(dict(enumerate(["mlp", "attention", "key_values"])))
    assert kinds.tolist() == units_of(base, base)["module"].tolist()

"""From steps of the configuration to edits of named neurons."""

import numpy as np
import pandas as pd
import pytest
from neurondynamics.data.records import write_json
from neurondynamics.interventions.plans import chosen_steps, plan_steps
from neurondynamics.interventions.units import Units

NEURONS = pd.DataFrame(
    {
        "layer": [0, 0, 1, 1],
        "neuron": [0, 1, 0, 1],
        "cosine": [0.1, 0.4, 0.3, -0.2],
        "activation_base": [1.0, 2.0, -3.0, 4.0],
        "activation_tuned": [1.5, 1.0, -1.0, 4.0],
        "reduction": [0.0, 3.0, 2.0, 1.0],
        "group": ["TP+", "TP-", "TN-", "unchanged"],
    }
)
ALL = {"neurons": [[0, 0], [0, 1], [1, 0], [1, 1]]}


def plan(**step):
    (edit,) = plan_steps(Units(NEURONS), [{"select": ALL, **step}], {}).edits
    return edit


@pytest.mark.parametrize(
    ("step", "act", "values"),
    [
        ({"operation": "patch"}, "set", [1.5, 1.0, -1.0, 4.0]),
        ({"operation": "patch", "mode": "mean"}, "set", [1.5, 1.0, -1.0, 4.0]),
        ({"operation": "patch", "mode": "shift"}, "shift", [0.5, -1.0, 2.0, 0.0]),
        ({"operation": "patch", "mode": "paired"}, "paired", [1.0, 1.0, 1.0, 1.0]),
        ({"operation": "rescale", "factor": 1.1}, "set", [1.1, 2.2, -3.3, 4.4]),
        ({"operation": "rescale", "factor": 1.1, "mode": "shift"}, "shift", [0.1, 0.2, -0.3, 0.4]),
        ({"operation": "zero"}, "zero", None),
    ],
)
def test_values(step, act, values):
    edit = plan(**step)
    assert edit.act == act
    assert edit.layers.tolist() == [0, 0, 1, 1]
    assert edit.inputs.tolist() == [0, 1, 0, 1]
    assert edit.factor is None
    assert edit.positions == "new"
    found = vars(edit)["values"]
    if values is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, values, rtol=1e-12)


@pytest.mark.parametrize("operation", ["scale", "scale_keys"])
def test_factors_and_positions(operation):
    edit = plan(operation=operation, factor=2.5, positions="all")
    assert (edit.act, edit.factor) == (operation, 2.5)
    assert vars(edit)["values"] is None
    assert edit.positions == "all"


@pytest.mark.parametrize("mode", ["mean", "shift", "paired"])
def test_shuffled_signs_move_half_of_the_neurons_the_other_way(mode):

    def values(mode, **options):
        edit = plan(operation="patch", mode=mode, **options)
        return vars(edit)["values"]

    straight = values(mode)
    seen = set()
    for seed in range(20):
        shuffled = values(mode, shuffle_signs=seed)
        again = values(mode, shuffle_signs=seed)
        np.testing.assert_array_equal(shuffled, again)
        middle = NEURONS.activation_base.to_numpy() if mode == "mean" else 0.0
        opposite = 2 * middle - straight
        flipped = values("paired", shuffle_signs=seed) < 0
        assert flipped.sum() == 2
        np.testing.assert_allclose(shuffled, np.where(flipped, opposite, straight))
        seen.add(tuple(flipped))
    assert len(seen) > 1


def test_a_direction_is_subtracted_at_the_length_given():
    step = {"operation": "subtract", "direction": "probe", "layer": 5, "scale": 10.0}
    (edit,) = plan_steps(Units(NEURONS), [step], {"probe": np.array([3.0, 4.0])}).edits
    assert edit.act == "subtract"
    assert edit.layers.tolist() == [5]
    assert edit.inputs.size == 0
    np.testing.assert_allclose(edit.values, [6.0, 8.0])


def test_the_last_layer_is_that_of_the_table():
    step = {"operation": "subtract", "direction": "probe", "layer": "last", "scale": 1.0}
    (edit,) = plan_steps(Units(NEURONS), [step], {"probe": np.ones(2)}).edits
    assert edit.layers.tolist() == [1]


def test_steps_keep_their_order():
    steps = [{"select": {"top": 1}, "operation": "zero"}, {"select": ALL, "operation": "patch"}]
    assert [edit.act for edit in plan_steps(Units(NEURONS), steps, {}).edits] == ["zero", "set"]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            {"operation": "subtract", "direction": "probe", "layer": 0, "scale": 1.0},
            r"^\[1\]: unknown direction 'probe'; known are svd$",
        ),
        ({"select": {"top": 9}, "operation": "zero"}, r"^\[1\]: top: 9 "),
        (
            {"select": {"top": 1}, "operation": "edit"},
            r"^\[1\]: unknown operation 'edit'; known are",
        ),
        (
            {"select": {"top": 1}, "operation": "patch", "mode": "median"},
            r"^\[1\]: unknown mode 'median'; known are mean, shift, paired, identity$",
        ),
        (
            {"select": {"top": 1}, "operation": "rescale", "factor": 2, "mode": "paired"},
            r"^\[1\]: unknown mode 'paired'; known are mean, shift$",
        ),
    ],
)
def test_a_wrong_step_is_named(step, said):
    first = {"select": {"top": 1}, "operation": "zero"}
    with pytest.raises(ValueError, match=said):
        plan_steps(Units(NEURONS), [first, step], {"svd": np.ones(2)})


def test_the_choice_of_another_search_is_refused(tmp_path):
    write_json(tmp_path / "choice.json", {"intervention": "a"})
    assert chosen_steps({"best_of": {"a": ["step"], "b": []}}, tmp_path / "choice.json") == ["step"]
    with pytest.raises(ValueError, match=r"choice\.json chose 'a', which is none of b, c; rebuild"):
        chosen_steps({"best_of": {"b": [], "c": []}}, tmp_path / "choice.json")


HEADS = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "change": [1.0, 2.0, 4.0, 3.0]})
BASE = np.arange(12.0).reshape(2, 6)  # two heads of width three
UNITS = Units(NEURONS, HEADS, 3, BASE, -BASE)


@pytest.mark.parametrize(
    ("step", "act", "values"),
    [
        ({"operation": "patch"}, "set", [-9.0, -10.0, -11.0, -3.0, -4.0, -5.0]),
        (
            {"operation": "patch", "mode": "shift"},
            "shift",
            [-18.0, -20.0, -22.0, -6.0, -8.0, -10.0],
        ),
        ({"operation": "patch", "mode": "paired"}, "paired", [1.0] * 6),
        ({"operation": "rescale", "factor": 2.0}, "set", [18.0, 20.0, 22.0, 6.0, 8.0, 10.0]),
        ({"operation": "zero"}, "zero", None),
        ({"operation": "scale", "factor": 2.0}, "scale", None),
    ],
)
def test_heads_are_named_by_their_inputs(step, act, values):
    step = {"select": {"heads": [[1, 1], [0, 1]]}, "positions": "all", **step}
    (edit,) = plan_steps(UNITS, [step], {}).edits
    assert (edit.act, edit.module, edit.unit_width, edit.positions) == (act, "attention", 3, "all")
    assert edit.layers.tolist() == [1, 1, 1, 0, 0, 0]
    assert edit.inputs.tolist() == [3, 4, 5, 3, 4, 5]
    found = vars(edit)["values"]
    assert (found is None) if values is None else found.tolist() == values


def test_a_step_on_neurons_and_heads_gives_an_edit_of_each():
    step = {"select": {"modules": ["attention", "mlp"]}, "operation": "zero"}
    neurons, heads = plan_steps(UNITS, [step], {}).edits
    assert (neurons.module, len(neurons.inputs)) == ("mlp", 4)
    assert (heads.module, len(heads.inputs)) == ("attention", 12)


def test_the_signs_of_heads_are_shuffled_head_by_head():
    select = {"modules": ["attention"]}
    step = {"operation": "patch", "mode": "paired", "select": select, "shuffle_signs": 0}
    (edit,) = plan_steps(UNITS, [step], {}).edits
    signs = vars(edit)["values"].reshape(4, 3)
    assert (signs == signs[:, :1]).all()
    assert sorted(signs[:, 0]) == [-1, -1, 1, 1]


def test_what_cannot_be_done_to_heads_is_refused():
    step = {"select": {"heads": [[0, 0]]}, "operation": "scale_keys", "factor": 2.0}
    with pytest.raises(ValueError, match=r"^\[0\]: scale_keys acts on neurons and MLPs, not on"):
        plan_steps(UNITS, [step], {})
    step = {"select": {"heads": [[0, 0]]}, "operation": "patch"}
    with pytest.raises(ValueError, match=r"^\[0\]: what heads read in the base model has not been"):
        plan_steps(Units(NEURONS, HEADS, 3), [step], {})

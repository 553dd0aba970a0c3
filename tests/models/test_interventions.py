"""Edits against the change of the MLP's output worked out by hand, and what they leave behind."""

import copy

import numpy as np
import plain
import pytest
import tiny
import torch
from neurondynamics.interventions.edits import applied, count_units
from neurondynamics.interventions.parts import Edit
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import decode, prefill

LAYER = 1
NEURONS = np.array([0, 7, tiny.NEURONS - 1])
VALUES = np.array([1.5, -2.0, 0.25])
IDS = torch.tensor([[17, 40, 303, 8, 99]])


def edit(act, layers=LAYER, neurons=NEURONS, **options):
    neurons = np.asarray(neurons)
    return Edit(act, np.broadcast_to(layers, neurons.shape), neurons, **options)


def mlp_output(model, layer=LAYER):
    """Return what the neurons of a layer write, (tokens, d_model), and their activations."""
    block = plain.blocks(model)[layer]
    with (
        plain.listening([plain.down(block)], "output") as output,
        plain.listening([plain.down(block)], "input") as activation,
        torch.inference_mode(),
    ):
        model(input_ids=IDS, use_cache=False)
    return output[0][0].double().numpy(), activation[0][0].double().numpy()


@pytest.mark.parametrize(
    ("chosen", "after"),
    [
        (edit("zero"), lambda m: np.zeros_like(m)),
        (edit("set", values=VALUES), lambda m: np.broadcast_to(VALUES, m.shape)),
        (edit("shift", values=VALUES), lambda m: m + VALUES),
        (edit("scale", factor=-3.0), lambda m: -3 * m),
    ],
    ids=["zero", "set", "shift", "scale"],
)
def test_an_edit_changes_the_mlp_by_what_its_neurons_write(every_case, chosen, after):
    case = every_case
    before, m = mlp_output(case.plain)
    vectors = plain.values(plain.blocks(case.plain)[LAYER]).numpy()
    expected = before + (after(m[:, NEURONS]) - m[:, NEURONS]) @ vectors[NEURONS]
    with applied(dissect(case.model), [chosen]):
        found, _ = mlp_output(case.model)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - before).max() > 0.1


def heads(act, layers, numbers, width, **options):
    inputs = (np.asarray(numbers)[:, None] * width + np.arange(width)).ravel()
    layers = np.repeat(np.broadcast_to(layers, len(numbers)), width)
    return Edit(act, layers, inputs, module="attention", unit_width=width, **options)


def attention_output(model):
    """Return what the heads of a layer write, (tokens, d_model), and the inputs they write by."""
    out = [plain.out(plain.blocks(model)[LAYER])]
    with plain.listening(out, "output") as written, plain.listening(out, "input") as read:
        model(input_ids=IDS, use_cache=False)
    return written[0][0].double().numpy(), read[0][0].double().numpy()


@pytest.mark.parametrize("act", ["zero", "set", "shift", "scale"])
def test_an_edit_of_heads_changes_attention_by_what_they_write(every_case, act):
    case = every_case
    layer = dissect(case.plain).layers[LAYER]
    width, vectors = layer.head_width, layer.output_vectors().numpy()
    values = np.linspace(-2, 3, 2 * width)
    options = {"set": {"values": values}, "shift": {"values": values}, "scale": {"factor": -3.0}}
    chosen = heads(act, LAYER, [0, 2], width, **options.get(act, {}))
    before, x = attention_output(case.plain)
    x = x[:, chosen.inputs]
    after = {"zero": 0 * x, "set": 0 * x + values, "shift": x + values, "scale": -3 * x}[act]
    with applied(dissect(case.model), [chosen]):
        found, _ = attention_output(case.model)
    expected = before + (after - x) @ vectors[chosen.inputs]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - before).max() > 0.1


def test_heads_are_counted_and_checked_as_heads(case_of):
    anatomy = dissect(case_of("qwen3").model)
    edits = [heads("zero", [0, 1], [3, 3], 16), heads("scale", 1, [3, 0], 16, factor=2.0)]
    assert count_units([*edits, edit("zero")]) == (3, 3)
    for wrong, message in (
        (heads("zero", 1, [4], 16), r"a head outside 0\.\.3 was selected in layer 1: 4\.\.4"),
        (heads("scale_keys", 1, [0], 16, factor=2.0), "scale_keys acts on neurons.*not on"),
    ):
        with pytest.raises(ValueError, match=message), applied(anatomy, [wrong]):
            pass


def scaled_keys(model, layer, neurons, factor):
    """Return a copy of a model whose key vectors, without biases, are multiplied in the weights."""
    model = copy.deepcopy(model)
    for key in plain.keys(plain.blocks(model)[layer]):
        rows = key.weight.T if hasattr(key, "nf") else key.weight
        for first in range(0, len(rows), plain.values(plain.blocks(model)[layer]).shape[0]):
            rows[first + torch.as_tensor(neurons)] *= factor
    return model


@pytest.mark.parametrize("factor", [5.0, -2.0, 0.0])
def test_scaling_keys_is_scaling_the_weights(every_case, factor):
    case = every_case
    reference = scaled_keys(case.plain, LAYER, NEURONS, factor)
    with applied(dissect(case.model), [edit("scale_keys", factor=factor)]):
        found = case.model(input_ids=IDS).logits[0].double()
    np.testing.assert_allclose(
        found.numpy(), plain.logits(reference, IDS[0].tolist()).numpy(), rtol=1e-4, atol=2e-4
    )


def test_an_edit_that_changes_nothing_leaves_every_bit(every_case):
    case = every_case
    before = case.model(input_ids=IDS).logits
    for nothing in (
        edit("scale", factor=1.0),
        edit("scale_keys", factor=1.0),
        edit("shift", values=np.zeros(len(NEURONS))),
        subtraction(np.zeros(tiny.HIDDEN)),
    ):
        with applied(dissect(case.model), [nothing]):
            assert torch.equal(case.model(input_ids=IDS).logits, before), nothing.act


def subtraction(vector):
    return Edit("subtract", np.array([LAYER]), np.array([], dtype=int), vector)


def test_a_subtracted_vector_is_missing_from_what_the_mlp_adds_to_the_stream(every_case):
    model = every_case.model
    vector = np.linspace(-1, 2, tiny.HIDDEN)
    added = []
    for edits in ([edit("zero")], [subtraction(vector), edit("zero")]):
        with (
            applied(dissect(model), edits),
            plain.listening([plain.mlp(plain.blocks(model)[LAYER])], "output") as heard,
        ):
            model(input_ids=IDS)
        added.append(heard[0][0].double().numpy())
    np.testing.assert_allclose(added[1], added[0] - vector, rtol=1e-4, atol=1e-4)
    assert count_units([subtraction(vector)]) == (0, 0)


def test_edits_act_one_after_the_other(case):
    """Scaling a neuron that was set is not setting a scaled one."""
    constant, scale = edit("set", values=VALUES), edit("scale", factor=2.0)
    before, m = mlp_output(case.plain)
    vectors = plain.values(plain.blocks(case.plain)[LAYER]).numpy()
    for edits, constants in (([constant, scale], 2 * VALUES), ([scale, constant], VALUES)):
        expected = before + (constants - m[:, NEURONS]) @ vectors[NEURONS]
        with applied(dissect(case.model), edits):
            found, _ = mlp_output(case.model)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_edits_in_several_layers_and_of_the_same_neuron(case):
    chosen = edit("zero", layers=[0, 2, 2, 2], neurons=[3, 5, 5, 9])
    assert count_units([chosen, edit("scale", layers=2, neurons=[5], factor=1.0)]) == (3, 0)
    with applied(dissect(case.model), [chosen]):
        found = case.model(input_ids=IDS).logits[0].double()
    changes = []
    for layer, zeros in {0: [3], 2: [5, 9]}.items():
        mask = torch.ones(tiny.NEURONS, dtype=torch.float64)
        mask[zeros] = 0
        down = plain.down(plain.blocks(case.plain)[layer])
        changes.append((down, "input", lambda m, mask=mask: m * mask))
    with plain.changed(changes):
        expected = plain.logits(case.plain, IDS[0].tolist())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (edit("zero", layers=tiny.LAYERS), r"layer 3 was selected; the model has 3"),
        (edit("zero", layers=-1), r"layer -1 was selected"),
        (edit("zero", neurons=[2, tiny.NEURONS]), r"outside 0\.\.43.*layer 1"),
        (edit("zero", neurons=[-1, 2]), r"outside 0\.\.43"),
        (edit("erase"), r"unknown act 'erase'; known are zero"),
        (edit("zero", positions="prompt"), r"unknown positions 'prompt'; known are new, all"),
        (edit("paired", values=np.ones(3)), r"a paired edit needs a leader"),
    ],
)
def test_what_the_model_has_not_is_refused_before_anything_runs(case, wrong, message):
    hooks = count_hooks(case.model)
    with (
        pytest.raises(ValueError, match=message),
        applied(dissect(case.model), [edit("zero"), wrong]),
    ):
        raise AssertionError("the block must not run")
    assert count_hooks(case.model) == hooks == 0


def count_hooks(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


EVERYTHING = [
    edit("scale_keys", factor=3.0),
    edit("set", values=VALUES),
    edit("scale", layers=0, factor=0.5),
    edit("zero", layers=2),
]


@pytest.mark.parametrize("fail", [False, True])
def test_afterwards_the_model_is_as_it_was(case, fail):
    weights = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    before = case.model(input_ids=IDS).logits
    try:
        with applied(dissect(case.model), EVERYTHING):
            assert count_hooks(case.model) > 0
            assert not torch.equal(case.model(input_ids=IDS).logits, before)
            if fail:
                raise RuntimeError("in the middle")
    except RuntimeError:
        assert fail
    assert count_hooks(case.model) == 0
    assert torch.equal(case.model(input_ids=IDS).logits, before)
    for name, tensor in case.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_an_error_inside_a_hook_is_raised(case_of):
    model = case_of("llama").model
    wrong = edit("set", values=np.array([1.0, 2.0]))  # two values for three neurons
    with pytest.raises((RuntimeError, IndexError, ValueError)), applied(dissect(model), [wrong]):
        model(input_ids=IDS)
    assert count_hooks(model) == 0


def test_a_shared_prefix_is_edited_at_the_new_positions_only(case):
    """As a loop that reads the whole text for every token, with the edit from the last prompt
    token on."""
    prefix = prefill(case.model, case.prompts)
    chosen = edit("set", neurons=np.arange(20), values=np.linspace(-3, 3, 20))
    keys = edit("scale_keys", layers=0, neurons=np.arange(10), factor=4.0)
    with applied(dissect(case.model), [keys, chosen]):
        found = decode(case.model, prefix, 8).lists()
    blocks = plain.blocks(case.plain)
    constants = torch.linspace(-3, 3, 20, dtype=torch.float64)

    def patch(m):
        return torch.cat([constants.expand(*m.shape[:-1], 20), m[..., 20:]], -1)

    def scale(key):
        bias = 0 if key.bias is None else key.bias
        factors = torch.ones(tiny.NEURONS, dtype=torch.float64)
        factors[:10] = 4
        return lambda pre: (pre - bias) * factors + bias

    changes = [(plain.down(blocks[LAYER]), "input", patch)]
    changes += [(key, "output", scale(key)) for key in plain.keys(blocks[0])]
    expected = [
        plain.generate(case.plain, prompt, 8, case.ends, changes) for prompt in case.prompts
    ]
    assert found == expected
    assert found != case.greedy
    assert decode(case.model, prefix, 8).lists() == case.greedy  # the prefix was not touched

"""Transplants against plain edits of the state dict, loaded and run by transformers alone."""

import copy
import logging
import re

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from neurondynamics.interventions.plans import plan_steps
from neurondynamics.interventions.transplant import Transplant, transplanted
from neurondynamics.interventions.units import Units
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import load_model
from neurondynamics.lm.stored import StoredWeights
from transformers import GPT2LMHeadModel

IDS = torch.tensor([[17, 40, 303, 8, 99]])
LAYER = 1
WHOLE = Transplant.whole(tiny.LAYERS)
TIED = ("bloom", "gpt2", "gemma2", "gemma3_text", "opt")


@pytest.fixture
def other(every_case):
    return tiny.nudge(copy.deepcopy(every_case.model), 0.1)


def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def numbers(start, width=8):
    return list(range(start, start + width))


def units_by_hand(case, neuron, head, group):
    """Return what a neuron, a head and a group of heads of a layer are in the stored weights:
    module -> the outputs and the inputs of it, written down from the source of transformers."""
    n = len(plain.values(plain.blocks(case.model)[LAYER]))
    family, w = case.family.removesuffix("-sequential"), 16 if case.family == "qwen3" else 8
    down, keys = plain.down, plain.keys
    block = plain.blocks(case.model)[LAYER]
    twice = [neuron, neuron + n] if family == "phi3" else [neuron]
    neurons = [*((key, twice, None) for key in keys(block)), (down(block), None, [neuron])]
    by_head = tuple(24 * x + start for x, start in ((head, 0), (group, 8), (group, 16)))
    places = {
        "gpt2": (8 * head, 32 + 8 * group, 64 + 8 * group),
        "phi3": (8 * head, 32 + 8 * group, 48 + 8 * group),
        "gpt_neox": by_head,
        "bloom": by_head,
        "falcon-alibi": by_head,
        "falcon": (8 * head, 32, 40),
        "falcon-new": (32 * (head // 2) + 8 * (head % 2), 32 * group + 16, 32 * group + 24),
    }
    q, k, v = places.get(family, (w * head, w * group, w * group))
    names = {"gpt2": "attn.c_attn", "phi3": "self_attn.qkv_proj", "gptj": "attn.{}_proj"}
    names |= {"gpt_neox": "attention.query_key_value"}
    names |= dict.fromkeys(("bloom", "falcon", "falcon-alibi", "falcon-new"),
                           "self_attention.query_key_value")  # fmt: skip
    name = names.get(family, "self_attn.{}_proj")
    modules = {letter: block.get_submodule(name.format(letter)) for letter in "qkv"}
    heads = [(modules["q"], numbers(q, w), None), (plain.out(block), None, numbers(w * head, w))]
    groups = [(modules["k"], numbers(k, w), None), (modules["v"], numbers(v, w), None)]
    return neurons, heads, groups


def edited(model, other, places, factor=1.0):
    """Return the state dict of a model with some weights moved, one at a time."""
    names = {module: name for name, module in model.named_modules()}
    state, theirs = {k: v.clone() for k, v in model.state_dict().items()}, other.state_dict()
    for module, outputs, inputs in places:
        for part in dict(module.named_parameters()) if outputs else ("weight",):
            name = f"{names[module]}.{part}"
            ours, target = state[name], theirs[name]
            rows_are_outputs = part == "bias" or not hasattr(module, "nf")
            index = outputs or inputs
            if rows_are_outputs != bool(outputs):
                ours, target = ours.T, target.T
            for row in index:
                start = ours[row].double()
                moved = start + factor * (target[row].double() - start)
                ours[row] = target[row] if factor == 1 else moved.float()
    return state


def assert_same(model, state):
    found = model.state_dict()
    assert set(found) == set(state)
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name]), name


def test_everything_is_the_other_model_and_nothing_the_same(every_case, other):
    model = every_case.model
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, theirs = logits(model), logits(other)
    assert not torch.equal(before, theirs)
    for source in (other, other.state_dict()):
        whole = transplanted(model, source, WHOLE)
        assert_same(whole, other.state_dict())
        assert torch.equal(logits(whole), theirs)
        assert whole.config.to_dict() == model.config.to_dict()
    same = transplanted(model, other, Transplant())
    assert_same(same, state)
    assert torch.equal(logits(same), before)
    assert {p.data_ptr() for p in same.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert_same(model, state)  # after all of it
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_units_are_what_a_plain_edit_of_the_weights_makes_of_them(every_case, other, factor):
    model = every_case.model
    groups = dissect(model).layers[LAYER].groups
    group = groups - 1
    neurons, heads, shared = units_by_hand(every_case, neuron=9, head=2, group=group)
    pair = [(LAYER, 9)], [(LAYER, 2)], [(LAYER, group)]
    for parts, places in (
        (Transplant(neurons=pair[0]), neurons),
        (Transplant(heads=pair[1]), heads),
        (Transplant(key_values=pair[2]), shared),
        (Transplant(*(np.array(one * 2) for one in pair)), [*neurons, *heads, *shared]),
    ):
        found = transplanted(model, other, parts, factor)
        assert_same(found, edited(model, other, places, factor))
    assert not torch.equal(logits(found), logits(model))


def replaced(model, other, modules):
    """Return the state dict of a model with all that some modules have from another one."""
    names = {module: name for name, module in model.named_modules()}
    taken = {f"{names[module]}.{part}" for module in modules for part in module.state_dict()}
    state, theirs = model.state_dict(), other.state_dict()
    return {name: theirs[name] if name in taken else weight for name, weight in state.items()}


def test_steps_of_a_configuration_move_projections_and_key_value_heads(every_case, other):
    model, anatomy = every_case.model, dissect(every_case.model)
    block, layer = plain.blocks(model)[LAYER], anatomy.layers[LAYER]
    queries, shared = [], []
    for number in range(layer.heads):
        queries += units_by_hand(every_case, 0, number, 0)[1][:1]
    for number in range(layer.groups):
        shared += units_by_hand(every_case, 0, 0, number)[2]
    neurons = pd.DataFrame({"layer": [], "neuron": []})
    units = Units.of(anatomy, neurons, tiny.heads_of(model), "base")
    here = {"layers": [LAYER, LAYER]}
    for step, expected in (
        ({"select": {"key_values": [[LAYER, layer.groups - 1]]}}, shared[-2:]),
        ({"select": {"modules": ["key_values"], **here}}, shared),
        ({"parts": ["queries"], **here}, queries),
        ({"parts": ["keys"], **here}, shared[::2]),
        ({"parts": ["values"], **here}, shared[1::2]),
        ({"parts": ["queries", "keys", "values"], **here}, queries + shared),
        ({"parts": ["attention_output"], **here}, [plain.out(block)]),
        ({"parts": ["mlp_input"], **here}, plain.keys(block)),
        ({"parts": ["mlp_output"], **here}, [plain.down(block)]),
    ):
        (move,) = plan_steps(units, [{"operation": "transplant", **step}], {}).moves
        found = transplanted(model, other, move.parts)
        by_hand = edited if isinstance(expected[0], tuple) else replaced
        assert_same(found, by_hand(model, other, expected))


INSIDE = {
    "attention": r"\.(attn|attention|self_attention|self_attn)\.",
    "mlp": r"\.(mlp|fc1|fc2)\.",
    "norms": r"\.(\w*norm|ln_\w+)\.",
}
OUTSIDE = {
    "embeddings": r"(wte|wpe|embed_tokens|embed_positions|embed_in|word_embeddings\w*)\.",
    "final_norm": r"(ln_f|model\.norm|final_layer_norm)\.",
    "unembedding": r"^(lm_head|embed_out)\.",
}


def kind_of(name):
    """Return which part of a model a weight belongs to, and in which layer."""
    inside = re.search(r"\.(?:h|layers)\.(\d+)(\..+)", name)
    found = INSIDE if inside else OUTSIDE
    kinds = [kind for kind, form in found.items() if re.search(form, inside[2] if inside else name)]
    return (kinds[0], int(inside[1])) if inside else (kinds[0], None)


def test_whole_modules_are_all_of_their_weights_and_no_others(every_case, other):
    model = every_case.model
    theirs = other.state_dict()
    for kind in (*INSIDE, *OUTSIDE):
        layer = LAYER if kind in INSIDE else None
        found = transplanted(model, other, Transplant(**{kind: True if layer is None else [layer]}))
        wanted = {name for name in theirs if kind_of(name) == (kind, layer)}
        if every_case.family in TIED and kind in ("embeddings", "unembedding"):
            assert not found.config.tie_word_embeddings
        moved = {
            n for n, w in found.state_dict().items() if not torch.equal(w, model.state_dict()[n])
        }
        assert moved == wanted, kind
        for name in wanted:
            assert torch.equal(found.state_dict()[name], theirs[name]), name


def test_a_saved_transplant_computes_the_same(every_case, other, tmp_path):
    """And the copy of a model that ties its embeddings is untied if only one of them is moved."""
    parts = Transplant(
        neurons=[(0, 3)],
        heads=[(1, 1)],
        key_values=[(2, 0)],
        queries=[2],
        attention_output=[1],
        mlp_input=[0],
        norms=[0],
        final_norm=True,
        embeddings=True,
    )
    found = transplanted(every_case.model, other, parts)
    loaded = load_model(tiny.save(found, tmp_path / "model"), "float32", "cpu")
    assert_same(loaded, found.state_dict())
    assert torch.equal(logits(loaded), logits(found))


@pytest.mark.parametrize("family", TIED)
def test_tied_embeddings_stay_tied_where_both_move_and_are_the_same(case_of, family, caplog):
    model = case_of(family).model
    other = tiny.nudge(copy.deepcopy(model), 0.1)
    both = Transplant(embeddings=True, unembedding=True)
    for parts in (both, WHOLE):
        found = transplanted(model, other, parts)
        assert found.get_input_embeddings().weight is found.get_output_embeddings().weight
        assert found.config.tie_word_embeddings
    with caplog.at_level(logging.INFO):
        found = transplanted(model, other, Transplant(unembedding=True))
        assert "share no weight any more: lm_head.weight moved" in caplog.text
        # the other was untied, as one that this made
        apart = transplanted(model, found, both)
    assert_same(apart, found.state_dict())
    assert not apart.config.tie_word_embeddings
    assert torch.equal(logits(apart), logits(found))
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_other_model_may_be_read_from_its_folder(case_of, family, tmp_path):
    model = case_of(family).model
    other = tiny.nudge(copy.deepcopy(model), 0.1)
    folder = tmp_path / "other"
    other.save_pretrained(folder)
    if family == "gpt2":  # as on the hub, without the names of the whole
        other.transformer.save_pretrained(folder)
        assert isinstance(other, GPT2LMHeadModel)
    stored = StoredWeights(folder)
    assert set(stored) == {n for n, _ in other.named_parameters(remove_duplicate=False)}
    assert len(stored) == len(set(stored))
    found = transplanted(model, stored, WHOLE)
    assert_same(found, other.state_dict())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (Transplant(attention=[3]), "layer 3 was selected; the model has 3"),
        (Transplant(neurons=[(-1, 0)]), "layer -1 was selected"),
        (Transplant(neurons=[(0, 44)]), r"a neuron outside 0\.\.43 was selected in layer 0: 44"),
        (Transplant(heads=[(2, 4)]), r"a head outside 0\.\.3 .* in layer 2"),
        (Transplant(key_values=[(2, 2)]), r"a key/value head outside 0\.\.1 .* in layer 2"),
    ],
)
def test_what_the_model_has_not_is_refused(case_of, parts, message):
    model = case_of("llama").model
    with pytest.raises(ValueError, match=message):
        transplanted(model, model, parts)


def test_another_shape_is_refused(case_of):
    model = case_of("llama").model
    state = model.state_dict()
    name = "model.layers.0.mlp.up_proj.bias"
    with pytest.raises(ValueError, match=rf"it lacks 1 of the weights, such as {name}"):
        transplanted(model, {key: value for key, value in state.items() if key != name}, WHOLE)
    with pytest.raises(ValueError, match=r"1 of its have no place, such as extra\.weight"):
        transplanted(model, state | {"extra.weight": state[name]}, WHOLE)
    with pytest.raises(ValueError, match=rf"{name} is \[43\] there and \[44\] here"):
        transplanted(model, state | {name: state[name][1:]}, WHOLE)

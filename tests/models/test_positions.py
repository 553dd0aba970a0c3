"""Which positions an edit acts on while generating, and paired edits, which follow a second model.

Compared with a loop that reads the whole text anew for every token.
"""

import copy
from contextlib import contextmanager

import numpy as np
import plain
import pytest
import tiny
import torch
from neurondynamics.interventions.edits import (
    applied,
    at_all_positions,
    followed_sites,
    listening,
    needs_leader,
)
from neurondynamics.interventions.parts import Edit
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import decode, prefill
from neurondynamics.lm.teacher_forcing import read_windows

T = 8
WINDOWS = torch.tensor([[17, 40, 303, 8, 99, 4], [5, 6, 7, 8, 9, 10]])
LAYERS, NEURONS = (np.repeat(np.arange(tiny.LAYERS), tiny.NEURONS),
                   np.tile(np.arange(tiny.NEURONS), tiny.LAYERS))  # fmt: skip


def paired(signs=None, chosen=slice(None), positions="new"):
    signs = np.ones(len(LAYERS)) if signs is None else signs
    return Edit("paired", LAYERS[chosen], NEURONS[chosen], signs[chosen], positions=positions)


@contextmanager
def following(model, edits, leader):
    """Edits are in force, and what they follow is heard while the leader reads."""
    heard = {}
    with (
        listening(dissect(leader), followed_sites(edits), heard),
        applied(dissect(model), edits, heard),
    ):
        yield


def generate(case, edits, leader=None):
    """Generate a batch of the case's prompts under edits, each at its positions."""
    ahead = leader or case.model  # without a leader nothing is listened to
    with following(case.model, at_all_positions(edits), ahead):
        prefix = prefill(case.model, case.prompts, leader)
    with following(case.model, edits, ahead):
        return decode(case.model, prefix, T, leader=leader).lists()


def plain_generate(case, change, everywhere):
    """Generate prompt by prompt; `change(ids, start)` gives the changes of reading `ids`."""
    found = []
    for prompt in case.prompts:
        ids = list(prompt)
        start = 0 if everywhere else len(prompt) - 1
        for _ in range(T):
            changes = change(ids, start)
            with plain.changed(changes, start):
                ids.append(int(plain.logits(case.plain, ids)[-1].argmax()))
            if ids[-1] in case.ends:
                break
        found.append(ids[len(prompt) :])
    return found


@pytest.fixture
def tuned(case):
    """The case's model, in float32 and float64, after a tuning that moved every weight."""
    moved = tiny.nudge(copy.deepcopy(case.model), 0.1)
    return moved, copy.deepcopy(moved).double()


@pytest.mark.parametrize("positions", ["new", "all"])
def test_a_constant_at_the_positions_that_are_named(case, positions):
    chosen = slice(tiny.NEURONS, tiny.NEURONS + 20)  # the first twenty of layer 1
    constants = np.linspace(-3, 3, 20)
    edit = Edit("set", LAYERS[chosen], NEURONS[chosen], constants, positions=positions)

    def change(ids, start):
        def patch(m):
            return torch.cat([torch.tensor(constants).expand(*m.shape[:-1], 20), m[..., 20:]], -1)

        return [(plain.down(plain.blocks(case.plain)[1]), "input", patch)]

    found = generate(case, [edit])
    assert found == plain_generate(case, change, everywhere=positions == "all")
    assert found != case.greedy


def test_edits_of_both_positions_in_one_intervention(case):
    first = Edit("scale", LAYERS[:10], NEURONS[:10], factor=3.0, positions="all")
    second = Edit("zero", LAYERS[5:15], NEURONS[5:15])

    def change(ids, start):
        last = len(next(p for p in case.prompts if ids[: len(p)] == list(p))) - 1

        def both(m):  # from the first position on
            m = m.clone()
            m[..., :10] *= 3
            m[:, last:, 5:15] = 0
            return m

        return [(plain.down(plain.blocks(case.plain)[0]), "input", both)]

    prompts = [p for p in case.prompts if sum(q[: len(p)] == p for q in case.prompts) == 1]
    assert prompts == case.prompts, "no prompt begins another"
    assert generate(case, [first, second]) == plain_generate(case, change, everywhere=True)


@pytest.mark.parametrize("positions", ["new", "all"])
def test_paired_neurons_take_the_leaders_activations(case, tuned, positions):
    """A third follows the leader, a third moves the other way, a third stays."""
    model, reference = tuned
    signs = np.resize([1.0, -1.0, 0.0], len(LAYERS))
    chosen = np.flatnonzero(signs)
    kinds = torch.tensor(signs).view(tiny.LAYERS, -1)

    def change(ids, start):
        downs = [plain.down(block) for block in plain.blocks(reference)]
        with plain.listening(downs, "input") as heard:
            plain.logits(reference, ids)

        def follow(layer):
            target = heard[layer][:, start:]
            kind = kinds[layer]
            return lambda m: torch.where(
                kind > 0, target, torch.where(kind < 0, m - (target - m), m)
            )

        blocks = plain.blocks(case.plain)
        return [(plain.down(b), "input", follow(layer)) for layer, b in enumerate(blocks)]

    found = generate(case, [paired(signs, chosen, positions)], model)
    assert found == plain_generate(case, change, everywhere=positions == "all")
    assert found != case.greedy


@pytest.mark.parametrize("module", ["mlp", "attention"])
def test_following_every_unit_reproduces_a_tuning_of_what_feeds_them(every_case, module):
    """The other module, embeddings and projections are the base model's: nothing else differs."""
    case = every_case
    tuned = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(3)
    for block, layer in zip(plain.blocks(tuned), dissect(tuned).layers, strict=True):
        attention = dict.fromkeys(part.projection for part in layer.qkv)
        for key in plain.keys(block) if module == "mlp" else attention:
            for parameter in key.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    layers, inputs = np.indices((tiny.LAYERS, len(layer.vectors(module))))
    follow = Edit("paired", layers.ravel(), inputs.ravel(), np.ones(layers.size), positions="all",
                  module=module)  # fmt: skip
    found = generate(case, [follow], tuned)
    expected = decode(tuned, prefill(tuned, case.prompts), T).lists()
    assert found == expected != case.greedy
    with following(case.model, [follow], tuned):
        read = read_windows(case.model, WINDOWS, tuned)
    assert torch.equal(read, read_windows(tuned, WINDOWS))
    assert not torch.equal(read, read_windows(case.model, WINDOWS))


def test_following_the_same_model_changes_nothing_to_the_bit(case):
    twin = copy.deepcopy(case.model)
    assert generate(case, [paired(positions="all")], twin) == case.greedy
    assert generate(case, [paired(-np.ones(len(LAYERS)))], twin) == case.greedy
    before = case.model(input_ids=WINDOWS).logits
    with following(case.model, [paired()], twin):
        twin(input_ids=WINDOWS)
        assert torch.equal(case.model(input_ids=WINDOWS).logits, before)


def test_the_leader_is_not_edited(case, tuned):
    model, _ = tuned
    before = model(input_ids=WINDOWS).logits
    edits = [paired(), Edit("zero", LAYERS[:5], NEURONS[:5])]
    with following(case.model, edits, model):
        assert torch.equal(model(input_ids=WINDOWS).logits, before)
        case.model(input_ids=WINDOWS)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_one_prefix_serves_paired_and_other_edits(case, tuned):
    """The leader's part of a prefix is left alone by those that do not need it."""
    model, _ = tuned
    prefix = prefill(case.model, case.prompts, model)
    for _ in range(2):
        with following(case.model, [paired()], model):
            followed = decode(case.model, prefix, T, leader=model).lists()
        assert followed == generate(case, [paired()], model)
        assert decode(case.model, prefix, T).lists() == case.greedy


def test_only_paired_edits_need_a_leader():
    assert needs_leader([Edit("zero", LAYERS, NEURONS), paired()])
    assert not needs_leader([Edit("zero", LAYERS, NEURONS)])


def test_a_leader_without_the_layers_that_are_followed_is_refused(case_of):
    model = case_of("llama").model
    shallow = dissect(model)
    shallow = type(shallow)(shallow.layers[:1], shallow.final_norm, shallow.unembedding)
    sites = followed_sites([paired()])
    assert sites == {("mlp", layer) for layer in range(tiny.LAYERS)}
    with pytest.raises(ValueError, match="followed model has 1"), listening(shallow, sites, {}):
        raise AssertionError("the block must not run")

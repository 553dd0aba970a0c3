"""How far edited models are from the one they follow, against plain float64, prompt by prompt."""

import copy
from types import SimpleNamespace

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
)
from neurondynamics.interventions.following import (
    Followed,
    edited_readings,
    measure_fidelity,
    measure_margins,
)
from neurondynamics.interventions.parts import Edit
from neurondynamics.interventions.plans import Plan
from neurondynamics.interventions.transplant import Move, Transplant
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm import fidelity
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import NonFiniteError, decode, prefill
from neurondynamics.lm.loading import load_model
from neurondynamics.lm.teacher_forcing import next_token_logits, read_new, read_windows

T = 6
CHOSEN = range(1, 6)  # prompts: one of a single token, one longer than a cache that forgets


def plans(**edits):
    """Return interventions of edits alone."""
    return {name: Plan(tuple(some)) for name, some in edits.items()}


def measured(model, followed, prompts, interventions):
    """Return the fidelity of a model along what the followed one writes after prompts."""
    new = decode(followed, prefill(followed, prompts), T).lists()
    return measure_fidelity(model, followed, prompts, new, interventions)


def paired(case, positions="new", every=1):
    """Every neuron, or every second of them, follows the other model."""
    width = len(plain.values(plain.blocks(case.model)[0]))
    layers, neurons = np.indices((tiny.LAYERS, width)).reshape(2, -1)[:, ::every]
    return Edit("paired", layers, neurons, np.ones(len(layers)), positions=positions)


def tuned_of(case):
    """The case's model, in float32 and float64, after a tuning that moved every weight."""
    moved = tiny.nudge(copy.deepcopy(case.model), 0.05)
    reference = copy.deepcopy(case.plain)
    reference.load_state_dict({name: w.double() for name, w in moved.state_dict().items()})
    return moved, reference


def plain_predictions(model, prompt, new, changes=(), start=0):
    """Return the log-probabilities at the new-token positions, (T, vocabulary)."""
    with plain.changed(changes, start):
        return plain.logits(model, [*prompt, *new[:-1]])[len(prompt) - 1 :].log_softmax(-1)


def plain_changes(case, reference, prompt, new, every=1):
    """Return the changes of reading a text by which neurons follow `reference`."""
    downs = [plain.down(block) for block in plain.blocks(reference)]
    with plain.listening(downs, "input") as heard:
        plain.logits(reference, [*prompt, *new[:-1]])

    def follow(number, target):
        width = target.shape[-1]
        chosen = (torch.arange(width) + number * width) % every == 0
        return lambda m: torch.where(chosen, target[:, -m.shape[1] :], m)

    blocks = plain.blocks(case.plain)
    return [(plain.down(blocks[n]), "input", follow(n, m)) for n, m in enumerate(heard)]


def plain_readings(case, reference, prompt, new):
    """By intervention, the base model's predictions on a text: as it is, and as it follows."""
    half = plain_changes(case, reference, prompt, new, every=2)
    every = plain_changes(case, reference, prompt, new)
    return {
        "unedited": plain_predictions(case.plain, prompt, new),
        "new": plain_predictions(case.plain, prompt, new, half, start=len(prompt) - 1),
        "all": plain_predictions(case.plain, prompt, new, every),
    }


def interventions_of(case):
    return plans(new=[paired(case, every=2)], all=[paired(case, "all")])


def test_hidden_states_become_the_models_own_logits(every_case):
    model = every_case.model
    ids = torch.tensor([[5, 6, 7, 8], [90, 80, 70, 60]])
    hidden = model.base_model(input_ids=ids).last_hidden_state
    assert torch.equal(next_token_logits(model, hidden), model(input_ids=ids).logits)


def test_continuations_of_any_length_are_read_as_whole_texts(every_case):
    case = every_case
    prefix = prefill(case.model, case.prompts)
    hidden = read_new(case.model, prefix, case.greedy)
    assert torch.equal(hidden, read_new(case.model, prefix, case.greedy))
    found = next_token_logits(case.model, hidden).double().log_softmax(-1)
    assert len({len(new) for new in case.greedy}) > 1
    for row, (prompt, new) in enumerate(zip(case.prompts, case.greedy, strict=True)):
        expected = plain_predictions(case.plain, prompt, new)
        np.testing.assert_allclose(found[row, : len(new)], expected, rtol=1e-3, atol=1e-3)


def test_divergence_and_agreement_equal_plain_ones(every_case):
    case = every_case
    tuned, reference = tuned_of(case)
    prompts = [case.prompts[i] for i in CHOSEN]
    found = measured(case.model, tuned, prompts, interventions_of(case))
    found = found.edited | {"unedited": found.unedited}
    for row, prompt in enumerate(prompts):
        new = plain.generate(reference, prompt, T, case.ends)
        log_p = plain_predictions(reference, prompt, new)
        for name, log_q in plain_readings(case, reference, prompt, new).items():
            kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
            np.testing.assert_allclose(found[name].kl[row], kl, rtol=1e-3, err_msg=name)
            np.testing.assert_allclose(found[name].agreement[row], same, rtol=1e-12)
    written = decode(tuned, prefill(tuned, prompts), T).lists()
    noise = fidelity.rounding(tuned, prompts, written)
    assert found["unedited"].kl.mean() > 1e4 * abs(noise).mean()
    assert found["all"].kl.mean() < found["unedited"].kl.mean()


def test_margins_equal_plain_ones(case):
    tuned, reference = tuned_of(case)
    prompts = [case.prompts[i] for i in CHOSEN]
    chosen, rejected = [case.greedy[i] for i in CHOSEN], [[7, 8, 9][: i % 3 + 1] for i in CHOSEN]
    pairs = chosen, rejected
    found = measure_margins(case.model, tuned, prompts, pairs, interventions_of(case))
    for row, prompt in enumerate(prompts):
        expected = {}
        for sign, texts in zip((1, -1), pairs, strict=True):
            new = texts[row]
            readings = plain_readings(case, reference, prompt, new)
            readings |= {"followed": plain_predictions(reference, prompt, new)}
            for name, log_p in readings.items():
                logarithm = float(log_p[range(len(new)), new].sum())
                expected[name] = expected.get(name, 0.0) + sign * logarithm
        by_name = found.edited | {"unedited": found.unedited, "followed": found.followed}
        for name, values in by_name.items():
            np.testing.assert_allclose(values[row], expected[name], rtol=1e-4, atol=1e-4)
        plainly = [plain.log_probability(reference, prompt, texts[row]) for texts in pairs]
        np.testing.assert_allclose(plainly[0] - plainly[1], expected["followed"], rtol=1e-6)


def windows_read(model, windows):
    """Return the log-probability of each window's tokens but its first."""
    return fidelity.log_probabilities(model, read_windows(model, windows), windows[:, 1:].tolist())


def test_windows_of_text_are_as_likely_as_token_by_token(case):
    windows = torch.randint(1, 400, (3, 12), generator=torch.Generator().manual_seed(0))
    expected = [plain.log_probability(case.plain, ids[:1], ids[1:]) for ids in windows.tolist()]
    np.testing.assert_allclose(windows_read(case.model, windows), expected, rtol=1e-5)


def test_windows_that_are_not_finite_are_named(case_of):
    model = copy.deepcopy(case_of("gpt2").model)
    model.transformer.wpe.weight[8] = torch.nan
    assert np.isfinite(windows_read(model, torch.ones(3, 9, dtype=torch.long))).all()
    with pytest.raises(NonFiniteError) as caught:
        windows_read(model, torch.ones(3, 10, dtype=torch.long))
    assert caught.value.rows == [0, 1, 2]


def test_a_batch_is_as_its_texts_one_at_a_time(case):
    tuned, _ = tuned_of(case)
    prompts = [case.prompts[i] for i in CHOSEN]
    whole = measured(case.model, tuned, prompts, interventions_of(case))
    for row, prompt in enumerate(prompts):
        alone = measured(case.model, tuned, [prompt], interventions_of(case))
        new = decode(tuned, prefill(tuned, [prompt]), T).lists()
        assert abs(fidelity.rounding(tuned, [prompt], new)) < 1e-6
        for name, found in whole.edited.items():
            np.testing.assert_allclose(found.kl[row], alone.edited[name].kl[0], rtol=1e-3)
            assert found.agreement[row] == alone.edited[name].agreement[0]


def test_a_model_that_follows_itself_is_itself_to_the_bit(every_case):
    case = every_case
    identities = plans(new=[paired(case)], all=[paired(case, "all")])
    found = measured(case.model, case.model, case.prompts, identities)
    for reading in (*found.edited.values(), found.unedited):
        np.testing.assert_array_equal(reading.kl, 0)
        np.testing.assert_array_equal(reading.agreement, 1)
    assert (abs(fidelity.rounding(case.model, case.prompts, case.greedy)) < 1e-6).all()


def heads_of(case):
    """Every head follows the other model at every position."""
    layer = dissect(case.model).layers[0]
    width = len(layer.output_vectors())
    layers, inputs = np.indices((tiny.LAYERS, width)).reshape(2, -1)
    options = {"positions": "all", "module": "attention", "unit_width": layer.head_width}
    return Edit("paired", layers, inputs, np.ones(len(layers)), **options)


def test_identity_and_whole_stand_at_either_end_to_the_bit(every_case):
    case = every_case
    tuned, _ = tuned_of(case)
    edits = (paired(case, "all"), heads_of(case))
    whole = Move(Transplant.whole(tiny.LAYERS), 1.0, 0, 0)
    ends = {
        "identity": Plan(edits, identity=True),
        "weights": Plan(moves=(whole,)),
        "both": Plan(edits, (whole,)),
    }
    found = measured(case.model, tuned, case.prompts, ends)
    np.testing.assert_array_equal(found.edited["identity"].kl, found.unedited.kl)
    assert (found.unedited.kl > 0).all()
    for name in ("weights", "both"):
        np.testing.assert_array_equal(found.edited[name].kl, 0)


def test_two_units_that_change_places_are_no_identity(case_of):
    """What is patched back goes through the path that patches take."""
    case, heard = case_of("llama"), {}
    anatomy, ids = dissect(case.model), torch.tensor([case.prompts[0]])
    sites = followed_sites([paired(case, "all")])
    with listening(anatomy, sites, heard):
        before = case.model(input_ids=ids).logits
    with applied(anatomy, [paired(case, "all")], heard):
        assert torch.equal(case.model(input_ids=ids).logits, before)
    order = [1, 0, *range(2, tiny.NEURONS)]
    swapped = heard | {("mlp", 1): heard["mlp", 1][..., order]}
    with applied(anatomy, [paired(case, "all")], swapped):
        assert not torch.allclose(case.model(input_ids=ids).logits, before)


@pytest.mark.parametrize("positions", ["new", "all"])
def test_what_is_kept_is_what_is_heard_live(case, positions):
    """To the bit: as if the followed model read each time just before the edited one."""
    tuned, _ = tuned_of(case)
    edits, anatomy, heard = [paired(case, positions)], dissect(case.model), {}
    followed = Followed(tuned, case.prompts, plans(patch=edits))
    text = followed.read(case.greedy)
    assert set(text.heard) == followed_sites(edits)
    assert set(followed.heard) == (followed_sites(edits) if positions == "all" else set())
    prefix = prefill(case.model, case.prompts)
    ((_, _, (kept,)),) = edited_readings(case.model, prefix, followed, [text], plans(patch=edits))
    with listening(dissect(tuned), followed_sites(edits), heard):
        with applied(anatomy, at_all_positions(edits), heard):
            live = prefill(case.model, case.prompts, tuned)
        with applied(anatomy, edits, heard):
            read_new(tuned, prefill(tuned, case.prompts), case.greedy)
            assert torch.equal(read_new(case.model, live, case.greedy), kept)
    assert not torch.equal(read_new(case.model, prefix, case.greedy), kept)


def test_the_followed_model_runs_as_often_for_many_interventions_as_for_one(case_of):
    case = case_of("llama")
    tuned, _ = tuned_of(case)
    one, passes = plans(a=[paired(case, "all")]), []
    count = tuned.model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    measured(case.model, tuned, case.prompts, one)
    alone = len(passes)
    measured(case.model, tuned, case.prompts, one | {"b": one["a"], "c": Plan()})
    count.remove()
    assert len(passes) == 2 * alone


@pytest.mark.parametrize("spread", [0.003, 0.3, 30.0])
def test_blocks_of_a_large_vocabulary_come_to_what_float64_says(spread):
    """A model that is near, one that is elsewhere, and one that is sure of what is unlikely."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    vocabulary, width, texts = 3 * fidelity.TOKENS + 5, 24, [[0, 9, 4_000], [6_148], [7, 2_048]]
    weights = [0.3 * random(vocabulary, width)]
    weights.append(weights[0] + 0.001 * random(vocabulary, width))
    heads = [SimpleNamespace(weight=weight, bias=0.1 * random(vocabulary)) for weight in weights]
    models = [
        SimpleNamespace(get_output_embeddings=lambda head=head: head, config=SimpleNamespace())
        for head in heads
    ]
    target = random(3, 3, width)
    near = target + spread * random(3, 3, width)
    readings = {"near": near, "same": target}
    found = fidelity.divergences(models[0], target, models[1], readings, texts)
    for name, hidden in readings.items():
        for row, tokens in enumerate(texts):
            states = target[row, : len(tokens)], hidden[row, : len(tokens)]
            log_p, log_q = (
                (state.double() @ head.weight.double().T + head.bias.double()).log_softmax(-1)
                for state, head in zip(states, heads, strict=True)
            )
            kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            np.testing.assert_allclose(found[name].kl[row], kl, rtol=1e-6, atol=5e-7)
            same = (log_p.argmax(-1) == log_q.argmax(-1)).double().mean()
            assert found[name].agreement[row] == same
            given = log_q[range(len(tokens)), tokens].sum()
            np.testing.assert_allclose(found[name].log_probability[row], given, rtol=1e-6)
        alone = fidelity.log_probabilities(models[1], hidden, texts)
        np.testing.assert_array_equal(alone, found[name].log_probability)
    itself = fidelity.divergences(models[0], target, models[0], {"same": target}, texts)["same"]
    np.testing.assert_array_equal(itself.kl, 0)
    np.testing.assert_array_equal(itself.agreement, 1)


def test_logits_are_worked_out_in_blocks_of_bounded_size(case_of, monkeypatch):
    case = case_of("gpt2")
    tuned, _ = tuned_of(case)
    pairs = [new[:1] for new in case.greedy], case.greedy

    def measure():
        found = measured(case.model, tuned, case.prompts, plans(none=[]))
        np.testing.assert_array_equal(found.unedited.kl, found.edited["none"].kl)
        margins = measure_margins(case.model, tuned, case.prompts, pairs, {})
        return found.unedited.kl, found.unedited.agreement, margins.unedited, margins.followed

    blocks = []

    def spy(model, hidden, tokens):
        logits = next_token_logits(model, hidden, tokens)
        blocks.append(logits.shape)
        return logits

    whole = measure()
    monkeypatch.setattr(fidelity, "next_token_logits", spy)
    monkeypatch.setattr(fidelity, "TOKENS", 7)  # of 400
    monkeypatch.setattr(fidelity, "LOGIT_BYTES", 3 * 4 * 7)
    for found, expected in zip(measure(), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert max(blocks) == (3, 7)


def test_what_is_not_finite_names_its_intervention_and_rows(case_of):
    case = case_of("llama")
    broken = copy.deepcopy(case.model)
    prompts = case.prompts[1:3]
    broken.model.embed_tokens.weight[prompts[0][4]] = torch.nan
    with pytest.raises(NonFiniteError, match="patch: log-probabilities") as caught:
        measured(broken, case.model, prompts, plans(patch=[]))
    assert caught.value.rows == [0]
    texts = [[3, 4], [5]], [[6], [7]]
    with pytest.raises(NonFiniteError, match="patch: log-probabilities") as caught:
        measure_margins(broken, case.model, prompts, texts, plans(patch=[]))
    assert caught.value.rows == [0]
    with pytest.raises(NonFiniteError) as caught:
        measured(case.model, broken, prompts, {})
    assert caught.value.rows == [0]


def test_no_more_texts_are_followed_than_are_prefilled_at_once(case_of):
    model, texts = case_of("llama").model, [[1]] * (FOLLOWED_TEXTS + 1)
    with pytest.raises(ValueError, match="33 texts at once; at most 32"):
        measure_fidelity(model, model, texts, texts, {})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_everything_moved_is_the_other_model_on_a_single_position(tmp_path, family):
    """Weights that lie unevenly in a mapped file are multiplied otherwise, row by row."""
    base = tiny.build_model(family)
    folders = tiny.save(base, tmp_path / "base"), tmp_path / "tuned"
    tiny.save(tiny.nudge(copy.deepcopy(base), 0.05), folders[1])
    model, followed = (load_model(folder, "float32", "cpu") for folder in folders)
    plan = Plan(moves=(Move(Transplant.whole(tiny.LAYERS), 1.0, 0, 0),))
    for prompts in ([[5, 9]], [[5]], [[5], [9]]):
        new = [[7] for _ in prompts]
        read = measure_fidelity(model, followed, prompts, new, {"everything": plan})
        assert (read.edited["everything"].kl == 0).all()
        assert (read.unedited.kl > 0).all()

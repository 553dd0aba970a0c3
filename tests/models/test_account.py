"""The account of a tuning, against plain float64 models put together of both, text by text."""

import copy

import numpy as np
import plain
import pytest
import tiny
import torch
from neurondynamics.interventions.account import CAUSAL, WEIGHTS, Account, Key
from neurondynamics.lm.generation import decode, prefill
from neurondynamics.lm.streams import Stream

T = 5
CHOSEN = (1, 2, 5)  # prompts, one of a single token
# norms behind attention and MLP in Gemma; the first is before the MLP in others
BEHIND = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")


@pytest.fixture
def pair(every_case):
    """A case's model beside one whose every weight was moved, in float32 and in float64."""
    case = every_case
    tuned = tiny.nudge(copy.deepcopy(case.model), 0.05)
    reference = copy.deepcopy(case.plain)
    reference.load_state_dict({name: w.double() for name, w in tuned.state_dict().items()})
    prompts = [case.prompts[i] for i in CHOSEN]
    new = decode(tuned, prefill(tuned, prompts), T).lists()
    return case, tuned, reference, prompts, new


def untied(model):
    """Return a copy whose unembedding has a weight of its own."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), False)
    return model


def names_of(model):
    """Return the parameters of a model by part: (part, layer or None) -> names."""
    of_module = {module: name for name, module in model.named_modules()}
    every = [name for name, _ in model.named_parameters()]
    found = {}
    for number, block in enumerate(plain.blocks(model)):
        inside = [name for name in every if name.startswith(f"{of_module[block]}.")]
        out, down = of_module[plain.out(block)], of_module[plain.down(block)]
        whole = out.rpartition(".")[0] + "."
        mlp = [n for n in inside if n.startswith((down, *map(of_module.get, plain.keys(block))))]
        attention = [n for n in inside if n.startswith(whole)]
        behind = BEHIND if model.config.model_type.startswith("gemma") else ()
        written = [n for n in inside if n.startswith((out, down)) or n.endswith(behind)]
        found["attention", number], found["mlp", number] = attention, mlp
        found["norms", number] = [n for n in inside if n not in (*attention, *mlp)]
        found["output_projections", number] = written
        found["others", number] = [name for name in inside if name not in written]
    blocks = {name for names in found.values() for name in names}
    norm = of_module[plain.final_norm(model)] + "."
    found["final_norm", None] = [name for name in every if name.startswith(norm)]
    found["unembedding", None] = [n for n in every if n.startswith("lm_head.")]
    rest = blocks.union(*(found[part, None] for part in ("final_norm", "unembedding")))
    found["embeddings", None] = [name for name in every if name not in rest]
    return found


def mixed(base, tuned, moved):
    """Return the base model with the parts `moved` of the tuned one."""
    model, names = untied(base), names_of(untied(base))
    theirs = dict(untied(tuned).named_parameters())
    ours = dict(model.named_parameters())
    for name in {name for part in moved for name in names[part]}:
        ours[name].data.copy_(theirs[name])
    return model


def divergence(reference, model, prompt, new, clamped=()):
    """Return KL(reference ‖ model) on a text; `clamped` units, (module, layer), are as there."""
    text, at = [*prompt, *new[:-1]], len(prompt) - 1
    find = {"attention": plain.out, "mlp": plain.down}
    sites = [(module, n) for module in find for n in range(tiny.LAYERS)]

    def projections(of):
        return [find[module](plain.blocks(of)[n]) for module, n in sites]

    with plain.listening(projections(reference), "input") as heard:
        log_p = plain.logits(reference, text)[at:].log_softmax(-1)
    changes = [
        (projection, "input", lambda _, target=target: target)
        for site, projection, target in zip(sites, projections(model), heard, strict=True)
        if site in clamped
    ]
    with plain.changed(changes, 0):
        log_q = plain.logits(model, text)[at:].log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def meant(key):
    """Return the parts that a measure takes from the tuned model, and the units it clamps."""
    layers = range(tiny.LAYERS)
    units = {(module, n) for module in ("attention", "mlp") for n in layers}
    written = {("output_projections", n) for n in layers}
    outside = {(part, None) for part in ("embeddings", "final_norm", "unembedding")}
    blocks = {(part, n) for part in ("attention", "mlp", "norms") for n in layers}
    named = [key.layer] if key.layer is not None else [None, *layers]
    part = {(key.part, n) for n in named}
    if key.part == "whole":
        by_weights = key.measure == "weights_alone"
        return (blocks | outside, set()) if by_weights else (written | outside, units)
    if key.measure == "causal_alone":
        return part & (written | outside), part & units
    if key.measure == "causal_without":
        return (written | outside) - part, units - part
    if key.measure == "weights_alone":
        return part & (blocks | written | outside), set()
    if key.part == "output_projections":
        return {("others", n) for n in layers} | outside, set()
    return (blocks | outside) - part, set()


def test_every_measure_is_that_of_a_plain_model_put_together(pair):
    case, tuned, reference, prompts, new = pair
    account = Account(case.model, tuned, prompts, new)
    found = dict(account.measure())
    assert len(found) == 2 * 4 * tiny.LAYERS + 28
    found[Key("nothing", None, "weights_alone")] = account.unedited()
    for key, measured in found.items():
        moved, clamped = meant(key)
        model = mixed(case.plain, reference, moved)
        for row, (prompt, text) in enumerate(zip(prompts, new, strict=True)):
            expected = divergence(reference, model, prompt, text, clamped)
            np.testing.assert_allclose(
                measured.kl[row], expected, rtol=2e-3, atol=1e-5, err_msg=f"{key}"
            )


def test_the_whole_is_the_other_model_to_the_bit_and_nothing_is_not(pair):
    case, tuned, _, prompts, new = pair
    account = Account(case.model, tuned, prompts, new)
    measured = dict(account.measure())
    for measure in (CAUSAL[0], WEIGHTS[0]):
        whole = measured[Key("whole", None, measure)]
        assert (whole.kl == 0).all()
        assert (whole.agreement == 1).all()
    assert (account.unedited().kl > 1e-4).all()
    same = Account(case.model, case.model, prompts, new)
    assert all((measured.kl == 0).all() for key, measured in same.measure() if "alone" in key[2])


def test_another_configuration_leaves_the_weights_short_of_the_whole():
    """Activations follow the other model as it is; weights are read as the base model reads."""
    base = tiny.build_model("llama")
    config = copy.deepcopy(base.config)
    config.rope_parameters["rope_theta"] = 50.0
    tuned = type(base)(config).eval().requires_grad_(False)
    tuned.load_state_dict(tiny.nudge(copy.deepcopy(base), 0.02).state_dict())
    measured = dict(Account(base, tuned, [[5, 6, 7, 8], [9, 10]], [[4, 5, 6], [7, 8]]).measure())
    assert (measured[Key("whole", None, CAUSAL[0])].kl == 0).all()
    assert measured[Key("whole", None, WEIGHTS[0])].kl.min() > 1e-4


def test_running_on_from_a_layer_is_reading_the_text(every_case):
    model = every_case.model
    stream = Stream(model, every_case.prompts, every_case.greedy)
    for number in range(tiny.LAYERS):
        assert torch.equal(stream.run_on(number, stream.inputs[number]), stream.inputs[-1])
    prompt, new = every_case.prompts[1], every_case.greedy[1]
    hidden = stream.hidden(stream.inputs[-1])[1, : len(new)]
    whole = model.base_model(input_ids=torch.tensor([[*prompt, *new[:-1]]])).last_hidden_state
    np.testing.assert_allclose(hidden, whole[0, len(prompt) - 1 :], rtol=1e-3, atol=1e-3)

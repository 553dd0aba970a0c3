"""Exported models against the hooks that they stand for, loaded and run by transformers alone."""

import copy
import json
from dataclasses import astuple

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
import yaml
from export_model import export_model
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.interventions.export import bake
from neurondynamics.interventions.parts import Edit
from neurondynamics.lm.anatomy import add_biases
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

NEW_TOKENS = 8
LAYER = 1
NEURONS = np.array([0, 7, 9, 30, tiny.NEURONS - 1])
VALUES = np.array([3.0, -2.0, 0.25, 4.0, -5.0])
VECTOR = np.linspace(-2, 2, tiny.HIDDEN)
BIASED = ("gpt2", "llama", "llama-without-biases")
UNBIASED = ("mistral", "phi3")  # the latter's keys are two halves of one projection


def edit(act, layers=LAYER, neurons=NEURONS, **options):
    neurons = np.asarray(neurons)
    return Edit(act, np.broadcast_to(layers, neurons.shape), neurons, **options)


def heads(act, layers, numbers, width=8, **options):
    """Return the edit of some heads, as their inputs of the output projections."""
    inputs = (np.asarray(numbers)[:, None] * width + np.arange(width)).ravel()
    layers = np.repeat(np.broadcast_to(layers, len(numbers)), width)
    return Edit(act, layers, inputs, module="attention", unit_width=width, **options)


def subtract(layer, vector):
    return Edit("subtract", np.array([layer]), np.array([], dtype=int), vector)


WITHOUT_CONSTANTS = {
    "zero": [edit("zero", neurons=np.arange(30))],
    "scale": [edit("scale", factor=-3.0)],
    "scale_keys": [edit("scale_keys", factor=4.0)],
    "mixture": [
        edit("scale", factor=2.0),
        edit("scale_keys", layers=0, factor=-2.0),
        edit("shift", layers=[0, 2, 2], neurons=[3, 3, 5], values=VALUES[:3]),
        edit("scale_keys", neurons=NEURONS[1:3], factor=3.0),
        edit("scale", neurons=NEURONS[:2], factor=-1.5),
        edit("zero", layers=[0, 2, 2], neurons=[3, 3, 5]),  # what was added is gone again
        heads("scale", [0, LAYER], [1, 3], factor=-2.0),
        heads("zero", LAYER, [0, 3]),
    ],
}
WITH_CONSTANTS = {
    "set": [edit("set", values=VALUES)],
    "shift": [edit("shift", values=VALUES)],
    "subtract": [subtract(LAYER, VECTOR)],
    "mixture": [
        edit("shift", values=VALUES),
        edit("scale", neurons=NEURONS[1:], factor=-1.5),
        subtract(LAYER, VECTOR),
        edit("scale_keys", factor=2.0),
        edit("shift", neurons=NEURONS[2:], values=VALUES[2:]),
        edit("set", layers=[0, 2], neurons=[5, 6], values=np.array([1.0, -4.0])),
        edit("scale", layers=[0, 1], neurons=[5, 7], factor=0.5),
        subtract(2, -VECTOR),
        subtract(2, VECTOR[::-1] ** 2),
        edit("scale_keys", neurons=NEURONS[:1], factor=-1.0),
        edit("zero", neurons=NEURONS[3:4]),
        heads("set", LAYER, [0, 3], values=np.linspace(-2, 2, 16)),
        heads("shift", [1, 2], [1, 1], values=np.linspace(1, -2, 16)),
        heads("scale", LAYER, [1, 3], factor=2.0),
    ],
}
CASES = [
    *((family, f"constant {name}") for family in BIASED for name in WITH_CONSTANTS),
    *((family, name) for family in (*BIASED, *UNBIASED) for name in WITHOUT_CONSTANTS),
]


@pytest.fixture(scope="module")
def models(case_of, tmp_path_factory):
    """The folder, and the models in float32 and float64, of some families and of most Llamas,
    which have no biases in their MLPs."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    case = case_of("llama")
    config = copy.deepcopy(case.model.config)
    config.mlp_bias = False
    bare = LlamaForCausalLM(config).requires_grad_(False)
    bare.load_state_dict(case.model.state_dict(), strict=False)
    bare.generation_config = case.model.generation_config
    tiny.save(bare, folder)
    cases = {family: case_of(family) for family in (*BIASED[:2], *UNBIASED)}
    found = {family: (c.folder, c.model, c.plain) for family, c in cases.items()}
    unbiased = load_model(folder, "float32", "cpu")
    found["llama-without-biases"] = (folder, unbiased, plain.load(folder))
    return found


def plain_changes(model, edits):
    """Return the edits as changes for `plain.changed`, each worked out on its own neurons."""
    return [change for one in edits for change in changes_of(plain.blocks(model), one)]


def changes_of(blocks, one):
    act, layers, inputs, values, factor, *_ = astuple(one)
    for layer in np.unique(layers):
        heads = one.module == "attention"
        down = plain.out(blocks[layer]) if heads else plain.down(blocks[layer])
        if act == "subtract":
            vector = torch.tensor(values)
            yield down, "output", lambda x, v=vector: x - v
            continue
        here = layers == layer
        index = torch.tensor(inputs[here])
        constants = None if values is None else torch.tensor(values[here])
        keys = act == "scale_keys"
        for module in plain.keys(blocks[layer]) if keys else [down]:
            function = changing(act, module, index, constants, factor)
            yield module, "output" if keys else "input", function


def changing(act, module, index, values, factor):
    if module.weight.shape[0] == 2 * tiny.NEURONS:  # gate and up in one
        index = torch.cat([index, index + tiny.NEURONS])

    def change(x):
        x = x.clone()
        bias = 0 if module.bias is None or act != "scale_keys" else module.bias[index]
        x[..., index] = {
            "zero": lambda m: 0 * m,
            "set": lambda m: 0 * m + values,
            "shift": lambda m: m + values,
            "scale": lambda m: factor * m,
            "scale_keys": lambda pre: factor * (pre - bias) + bias,
        }[act](x[..., index])
        return x

    return change


def generate(folder, prompts):
    """Continue prompts one at a time with what transformers loads from a folder."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told  # no key is missing, left over or of another shape
    continued = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        continued.append(output[0, len(prompt) :].tolist())
    return continued


@pytest.mark.parametrize(("family", "name"), CASES)
def test_an_exported_model_writes_what_the_hooks_at_all_positions_write(
    models, case_of, tmp_path, family, name
):
    constant = name.startswith("constant ")
    edits = (WITH_CONSTANTS if constant else WITHOUT_CONSTANTS)[name.removeprefix("constant ")]
    _, model, reference = models[family]
    case = case_of(family.removesuffix("-without-biases"))
    save_model(bake(model, edits), case.tokenizer, tmp_path / "exported")
    with plain.changed(plain_changes(reference, edits)):
        expected = [
            plain.generate(reference, prompt, NEW_TOKENS, case.ends) for prompt in case.prompts
        ]
        logits = plain.logits(reference, case.prompts[3])
    assert generate(tmp_path / "exported", case.prompts) == expected
    exported = plain.load(tmp_path / "exported")
    np.testing.assert_allclose(
        plain.logits(exported, case.prompts[3]).numpy(), logits.numpy(), rtol=1e-4, atol=2e-4
    )
    unedited = [plain.generate(reference, p, NEW_TOKENS, case.ends) for p in case.prompts]
    assert expected != unedited


@pytest.mark.parametrize("family", [*BIASED, *UNBIASED])
@pytest.mark.parametrize("edits", [[], [edit("scale", factor=1.0), edit("scale_keys", factor=1.0)]])
def test_without_an_edit_the_weights_are_the_same(models, family, edits):
    _, model, _ = models[family]
    baked = bake(model, edits)
    assert baked is not model
    assert baked.config.to_dict() == model.config.to_dict()
    weights = model.state_dict()
    assert set(baked.state_dict()) == set(weights)
    for name, tensor in baked.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("family", BIASED)
def test_the_given_model_is_not_changed(models, family):
    _, model, _ = models[family]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    bake(model, [*WITH_CONSTANTS["mixture"], *WITHOUT_CONSTANTS["mixture"]])
    assert model.config.to_dict() == config
    assert set(model.state_dict()) == set(weights)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_only_the_edited_weights_differ(models):
    _, model, _ = models["llama-without-biases"]
    before, after = model.state_dict(), bake(model, WITH_CONSTANTS["set"]).state_dict()
    new = sorted(set(after) - set(before))
    parts = ("down_proj", "gate_proj", "up_proj")
    assert new == [
        f"model.layers.{n}.mlp.{part}.bias" for n in range(tiny.LAYERS) for part in parts
    ]
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"model.layers.{LAYER}.mlp.down_proj.weight"]
    assert [name for name in new if after[name].any()] == [
        f"model.layers.{LAYER}.mlp.down_proj.bias"
    ]
    columns = (before[changed[0]] != after[changed[0]]).any(0).nonzero().flatten()
    assert columns.tolist() == NEURONS.tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama-without-biases"])
def test_dtype_tied_weights_and_generation_survive(models, case_of, tmp_path, family):
    folder, _, _ = models[family]
    case = case_of(family.removesuffix("-without-biases"))
    model = load_model(folder, "bfloat16", "cpu")
    save_model(bake(model, WITH_CONSTANTS["mixture"]), case.tokenizer, tmp_path / "exported")
    again = load_model(tmp_path / "exported", "auto", "cpu")
    assert {tensor.dtype for tensor in again.state_dict().values()} == {torch.bfloat16}
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == (family == "gpt2")
    assert again.generation_config.eos_token_id == case.ends
    assert load_tokenizer(tmp_path / "exported")(list(tiny.PROMPTS)).input_ids == case.prompts


@pytest.mark.parametrize("family", [*UNBIASED, "gemma2"])
@pytest.mark.parametrize("name", ["set", "subtract"])
def test_a_constant_that_the_family_has_no_place_for_is_refused(case_of, family, name):
    model = case_of(family).model
    message = (
        rf"adds a constant .*'mlp.\w+' of a model of type '{family}' has no bias, and its "
        r"configuration has no switch .*of neurons of this model: zero, scale, scale_keys$"
    )
    with pytest.raises(ValueError, match=message):
        bake(model, WITH_CONSTANTS[name])
    assert plain.down(plain.blocks(model)[0]).bias is None


@pytest.mark.parametrize("family", UNBIASED)
def test_a_constant_of_heads_that_the_family_has_no_place_for_is_refused(case_of, family):
    message = (
        rf"its heads write .*'self_attn.o_proj' of a model of type '{family}' has no bias, .*"
        r"of heads of this model: zero, scale$"
    )
    with pytest.raises(ValueError, match=message):
        bake(case_of(family).model, [heads("set", LAYER, [1], values=np.ones(8))])


@pytest.mark.parametrize("family", UNBIASED)
def test_a_constant_of_zero_needs_no_place(case_of, family):
    model = case_of(family).model
    zero, zeros = bake(model, [edit("zero")]), bake(model, [edit("set", values=0 * VALUES)])
    for name, tensor in zeros.state_dict().items():
        assert torch.equal(tensor, zero.state_dict()[name]), name


def test_a_paired_patch_is_refused(case):
    signs = np.ones(len(NEURONS))
    with pytest.raises(ValueError, match=r"^paired cannot be exported: .*mode mean or shift"):
        bake(case.model, [edit("zero"), edit("paired", values=signs)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (edit("zero", layers=tiny.LAYERS), r"layer 3 was selected; the model has 3"),
        (edit("zero", neurons=[2, tiny.NEURONS]), r"outside 0\.\.43.*layer 1"),
        (edit("erase"), r"unknown act 'erase'"),
    ],
)
def test_what_the_model_has_not_is_refused(case_of, wrong, message):
    with pytest.raises(ValueError, match=message):
        bake(case_of("gpt2").model, [wrong])


def test_biases_of_zero_change_nothing(models, case_of):
    _, model, _ = models["llama-without-biases"]
    wider = copy.deepcopy(model)
    add_biases(wider, "mlp")
    ids = torch.tensor([case_of("llama").prompts[1]])
    assert torch.equal(wider(input_ids=ids).logits, model(input_ids=ids).logits)
    assert (wider.config.mlp_bias, model.config.mlp_bias) == (True, False)


@pytest.fixture
def export(case_of, tmp_path):
    """Run the script on a table in which neuron (1, 7) and then (2, 3) are the most toxic."""
    table = pd.DataFrame(
        [(layer, neuron) for layer in range(tiny.LAYERS) for neuron in range(tiny.NEURONS)],
        columns=["layer", "neuron"],
    )
    table = table.assign(cosine=-0.5, activation_base=1.0, activation_tuned=0.5, group="AP+")
    table.loc[(table.layer == 1) & (table.neuron == 7), ["cosine", "activation_tuned"]] = 0.9, -3.0
    table.loc[(table.layer == 2) & (table.neuron == 3), ["cosine", "activation_tuned"]] = 0.8, 2.5
    table.to_parquet(tmp_path / "neurons.parquet")
    write_direction(tmp_path / "probe.safetensors", Direction(3 * VECTOR, 0.0))

    def run(steps, family="llama", choice=None, folder=None, followed_model=None, **names):
        tiny.heads_of(case_of(family).model).to_parquet(tmp_path / "heads.parquet")
        export_model(
            str(folder or case_of(family).folder),
            str(tmp_path / "neurons.parquet"),
            str(tmp_path / "heads.parquet"),
            [str(tmp_path / "probe.safetensors")],
            choice,
            str(tmp_path / "exported" / "it"),
            followed_model=followed_model,
            state="base",
            steps=steps,
            threads=1,
            **{"model_name": "tiny", "experiment": "patching", "intervention": "it"} | names,
        )
        return tmp_path / "exported" / "it"

    return run


STEPS = [
    {"select": {"top": 2}, "operation": "patch"},
    {"select": {"top": 1}, "operation": "scale", "factor": 2.0},
    {"operation": "subtract", "direction": "probe", "layer": 0, "scale": 1.5},
]


def test_the_script_exports_what_the_configuration_says(export, case_of):
    case = case_of("llama")
    folder = export(STEPS)
    unit = VECTOR / np.sqrt((VECTOR**2).sum())
    edits = [
        edit("set", layers=[1, 2], neurons=[7, 3], values=np.array([-6.0, 2.5])),
        subtract(0, 1.5 * unit),
    ]
    with plain.changed(plain_changes(case.plain, edits)):
        expected = [
            plain.generate(case.plain, prompt, NEW_TOKENS, case.ends) for prompt in case.prompts
        ]
    assert generate(folder, case.prompts) == expected != case.greedy
    assert load_tokenizer(folder)(list(tiny.PROMPTS)).input_ids == case.prompts
    assert [path.name for path in folder.parent.iterdir()] == ["it"]


def test_the_card_says_what_was_baked_and_nothing_of_this_machine(export, tmp_path):
    pairs = tmp_path / "chosen.csv"
    pairs.write_text("layer,neuron\n1,7\n0,2\n")
    steps = [
        {"select": {"random": {"file": str(pairs)}, "seed": 1}, "operation": "zero"},
        {"select": {"neurons": [[1, 7], [2, 3], [0, 5]]}, "operation": "scale", "factor": 0.5},
    ]
    folder = export(steps, model_name="tiny/dpo", intervention="it~random-1")
    card = (folder / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "transformers"
    told = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    steps[0]["select"]["random"]["file"] = "chosen.csv"
    assert told == steps
    for words in ("`tiny/dpo`", "`it~random-1`", "`patching`", "Content warning", "every position"):
        assert words in card
    assert "stored as float32" in card
    for file in (f for f in folder.iterdir() if f.suffix in (".json", ".md")):
        assert str(tmp_path) not in file.read_text(), file.name


def test_weights_that_are_moved_keep_the_wider_precision(export, case_of, tmp_path):
    """A tuned model's weights would lose what tuning changed, where the base model is narrower."""
    model = copy.deepcopy(case_of("llama").model)
    tiny.save(copy.deepcopy(model).bfloat16(), tmp_path / "base")
    tuned = tiny.nudge(model, 1e-4)
    tiny.save(tuned, tmp_path / "tuned")
    parts = ["attention", "mlp", "norms", "final_norm", "embeddings", "unembedding"]
    moved = {"steps": [{"operation": "transplant", "parts": parts}]}
    folder = export(**moved, folder=tmp_path / "base", followed_model=str(tmp_path / "tuned"))
    again = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    for name, weight in tuned.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert "stored as float32" in (folder / "README.md").read_text()


def test_the_best_of_a_search_is_exported(export, tmp_path):
    (tmp_path / "choice.json").write_text(json.dumps({"intervention": "second"}))
    found = {"best_of": {"first": STEPS, "second": STEPS[1:2]}}
    folder = export(found, choice=str(tmp_path / "choice.json"))
    assert "edited: 1." in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"select": {"top": 999}, "operation": "zero"}], r"interventions.it\[0\]: .*999"),
        (STEPS, r"interventions.it: the intervention adds a constant"),
        (
            [{"select": {"top": 1}, "operation": "patch", "mode": "paired"}],
            r"interventions.it: paired cannot be exported",
        ),
    ],
)
def test_what_cannot_be_exported_names_the_intervention_and_leaves_nothing(
    export, tmp_path, steps, message
):
    with pytest.raises(ValueError, match=rf"experiments.patching.{message}"):
        export(steps, family="mistral")
    assert not (tmp_path / "exported").exists()

"""Every family is found, and one that is not says what to do."""

from functools import partial

import plain
import pytest
import tiny
import torch
from neurondynamics.lm.anatomy import add_biases, dissect
from neurondynamics.lm.families import FAMILIES
from neurondynamics.lm.hooks import head_sites
from neurondynamics.lm.loading import load_model
from torch.nn.functional import gelu, relu, silu
from transformers import (
    AutoModelForCausalLM,
    CodeGenConfig,
    CodeGenForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
)


def test_every_known_family_is_tested():
    assert set(tiny.FAMILIES) == set(FAMILIES)


def test_the_parts_are_those_of_the_model(every_case):
    case = every_case
    anatomy = dissect(case.model)
    assert anatomy.final_norm is plain.final_norm(case.model)
    assert len(anatomy.layers) == tiny.LAYERS
    for layer, block, reference in zip(
        anatomy.layers, plain.blocks(case.model), plain.blocks(case.plain), strict=True
    ):
        assert layer.block is block
        assert layer.down is plain.down(block)
        assert list(layer.keys) == plain.keys(block)
        assert layer.mlp is plain.mlp(block)
        assert layer.attention is plain.attention(block)
        expected = plain.values(reference)
        assert layer.n_neurons == len(expected) == (128 if case.family == "bloom" else 44)
        vectors = layer.value_vectors()
        torch.testing.assert_close(vectors.double(), expected, rtol=0, atol=1e-12)
        zero = torch.zeros(1, layer.n_neurons)
        torch.testing.assert_close(layer.bias(), layer.down(zero)[0])


NONLINEARITIES = {
    **dict.fromkeys(("gpt2", "gptj", "bloom"), partial(gelu, approximate="tanh")),
    **dict.fromkeys(("gemma2", "gemma3_text"), partial(gelu, approximate="tanh")),
    **dict.fromkeys(("gpt_neox", "falcon"), gelu),
    "opt": relu,
}  # and silu


def test_the_parts_rebuild_what_the_mlp_writes(every_case):
    """Pre-activations from the key vectors, activations from those, the output from the value
    vectors; and what lies between the located modules does nothing."""
    model = every_case.plain
    nonlinearity = NONLINEARITIES.get(model.config.model_type, silu)
    layers = dissect(model).layers
    keys, downs = [layer.keys[0] for layer in layers], [layer.down for layer in layers]
    with (
        plain.listening(keys, "input") as read,
        plain.listening(downs, "input") as activations,
        plain.listening(downs, "output") as written,
    ):
        plain.logits(model, every_case.prompts[1])
    for layer, x, m, output in zip(layers, read, activations, written, strict=True):
        biases = [key.bias if key.bias is not None else 0 for key in layer.keys]
        if len(layer.keys) == 1 and len(layer.key_vectors()) == 2:
            biases *= 2  # there are none in a fused projection
        vectors = layer.key_vectors()
        assert {tuple(k.shape) for k in vectors} == {(layer.n_neurons, tiny.HIDDEN)}
        first, *rest = (x @ k.T + b for k, b in zip(vectors, biases, strict=True))
        found = nonlinearity(first)
        for up in rest:
            found = found * up
        torch.testing.assert_close(found, m, rtol=0, atol=1e-5)
        rebuilt = found @ layer.value_vectors() + layer.bias()
        torch.testing.assert_close(rebuilt, output, rtol=0, atol=1e-5)


GROUPS = dict.fromkeys(("bloom", "gpt2", "gpt_neox", "gptj", "opt"), 4) | {"falcon": 1}
GROUPS |= {"falcon-alibi": 4, "gpt_neox-sequential": 4}  # and 2
LAYER = 1


def mixed(case, values):
    """Return what heads make of their values, (tokens, heads, width), where every score is 0.

    Positions then count by their biases, if the family has any, and else alike.
    """
    tokens, heads, width = values.shape
    slopes = {"bloom": 1.0, "falcon-alibi": width**-0.5}.get(case.family, 0.0)
    slopes *= 2.0 ** (-2.0 * torch.arange(1, heads + 1, dtype=torch.float64))
    scores = slopes[:, None, None] * torch.arange(tokens)  # (heads, 1, tokens)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    weights = scores.expand(heads, tokens, tokens).masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khw->qhw", weights, values)


def heard_heads(case, changes=(), ids=(17, 40, 303, 8)):
    """Return what the output projection of a layer reads, by head, and the heads' values, both
    (tokens, heads, width)."""
    layer = dissect(case.plain).layers[LAYER]
    values = layer.qkv.values
    with (
        plain.changed(changes),
        plain.listening([layer.out], "input") as read,
        plain.listening([values.projection], "output") as projected,
    ):
        plain.logits(case.plain, ids)
    each = projected[0][0][:, values.index]  # (tokens, groups, width)
    return (
        read[0][0].unflatten(-1, (layer.heads, layer.head_width)),
        each.repeat_interleave(layer.heads // layer.groups, 1),
    )


def without(outputs, number, position=slice(None)):
    """Return the change that takes the query or key of one head or group away."""

    def erase(projected):  # (1, tokens, outputs)
        projected = projected.clone()
        projected[:, position, outputs.index[number]] = 0
        return projected

    return [(outputs.projection, "output", erase)]


def test_heads_write_by_their_blocks_of_the_output_projection(every_case):
    case = every_case
    anatomy = dissect(case.model)
    outs = [plain.out(block) for block in plain.blocks(case.model)]
    assert head_sites(anatomy) == [(out, "input") for out in outs]
    for layer, reference in zip(anatomy.layers, dissect(case.plain).layers, strict=True):
        assert layer.heads == 4
        assert layer.groups == GROUPS.get(case.family, 2)
        assert layer.head_width == (16 if case.family == "qwen3" else 8)
        vectors = layer.output_vectors()
        assert vectors.shape == (4 * layer.head_width, tiny.HIDDEN)
        assert vectors.data_ptr() == layer.out.weight.data_ptr()
        with (
            plain.listening([reference.out], "input") as read,
            plain.listening([reference.out], "output") as written,
        ):
            plain.logits(case.plain, case.prompts[1])
        rebuilt = read[0] @ reference.output_vectors() + reference.bias("attention")
        torch.testing.assert_close(rebuilt, written[0], rtol=0, atol=1e-12)


def test_a_lone_token_gives_every_head_the_value_of_its_group(every_case):
    read, values = heard_heads(every_case, ids=[17])
    torch.testing.assert_close(read, values, rtol=0, atol=1e-12)


def test_queries_are_those_of_their_heads_at_their_position(every_case):
    """Without its query a head counts all positions alike; no other head does, nor it elsewhere."""
    before, values = heard_heads(every_case)
    queries = dissect(every_case.plain).layers[LAYER].qkv.queries
    for head in range(len(queries.index)):
        found, _ = heard_heads(every_case, without(queries, head, -1))
        expected = before.clone()
        expected[-1, head] = mixed(every_case, values)[-1, head]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert (before - expected).abs().max() > 1e-3


def test_keys_are_those_of_their_groups_at_all_positions(every_case):
    before, values = heard_heads(every_case)
    layer = dissect(every_case.plain).layers[LAYER]
    for group in range(layer.groups):
        found, _ = heard_heads(every_case, without(layer.qkv.keys, group))
        heads = slice(*(layer.heads // layer.groups * end for end in (group, group + 1)))
        expected = before.clone()
        expected[:, heads] = mixed(every_case, values)[:, heads]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_logits_are_the_unembedded_final_norm(every_case):
    model = every_case.model
    anatomy = dissect(model)
    ids = torch.tensor([[5, 6, 7]])
    with plain.listening([anatomy.layers[-1].block], "output") as heard:
        logits = model(input_ids=ids).logits
    found = anatomy.unembedding(anatomy.final_norm(heard[0]))
    cap = getattr(model.config, "final_logit_softcapping", None)
    assert torch.equal(cap * torch.tanh(found / cap) if cap else found, logits)


def test_an_unknown_family_says_what_was_looked_for_and_how_to_add_it():
    config = CodeGenConfig(vocab_size=50, n_embd=16, n_layer=1, n_head=4, rotary_dim=4)
    with pytest.raises(ValueError, match="'codegen' are not known") as caught:
        dissect(CodeGenForCausalLM(config))
    message = str(caught.value)
    for part in (*FAMILIES, "model.layers", "mlp.down_proj", "mlp.c_proj", "model.norm"):
        assert part in message
    for part in ("attn (attention)", "self_attn (attention)", "mlp (mlp)", "attn.c_attn (queries"):
        assert part in message
    assert "add a row" in message
    assert "FAMILIES" in message
    assert "lm/families.py" in message


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, "normalise the residual stream itself"),
        ("opt", {"word_embed_proj_dim": 16}, "32 wide, but its unembedding reads 16"),
        ("opt", {"_remove_final_layer_norm": True}, "'model.decoder.final_layer_norm'.*is None"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "not the sum of what"),
        ("bloom", {"slow_but_exact": True}, "slow_but_exact: True .*set it to false"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "reads what comes later too"),
    ],
)
def test_a_variant_whose_parts_do_not_fit_is_refused_with_the_reason(family, settings, message):
    with pytest.raises(ValueError, match=f"of type '{family}'.*{message}"):
        dissect(tiny.build_model(family, **settings))


def test_a_gemma_that_reads_images_is_refused_and_its_language_model_is_not(case_of, tmp_path):
    """What the message says to do is done here."""
    text = case_of("gemma3_text")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text.model.config, vision_config=vision)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.model.language_model.load_state_dict(text.model.model.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="'gemma3' cannot be studied: they read images") as caught:
        dissect(whole)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    names = {"folder": tmp_path / "whole", "another_folder": tmp_path / "text"}
    names |= {kind.__name__: kind for kind in (AutoModelForCausalLM, Gemma3ForCausalLM)}
    exec("\n".join(lines), names)
    alone = load_model(tmp_path / "text", "float32", "cpu")
    assert len(dissect(alone).layers) == tiny.LAYERS
    ids = torch.tensor([text.prompts[1]])
    assert torch.equal(alone(input_ids=ids).logits, text.model(input_ids=ids).logits)


@pytest.mark.parametrize("part", ["mlp.up_proj", "self_attn"])
def test_a_part_that_is_missing_is_named(part):
    model = tiny.build_model("llama")
    owner, _, name = f"model.layers.1.{part}".rpartition(".")
    delattr(model.get_submodule(owner), name)
    with pytest.raises(ValueError, match=rf"'{part}'.*FAMILIES"):
        dissect(model)


def test_a_projection_of_another_kind_is_refused():
    model = tiny.build_model("llama")
    model.model.layers[0].mlp.down_proj = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"mlp\.down_proj.*Identity"):
        dissect(model)


def test_keys_that_do_not_belong_to_the_neurons_are_refused():
    model = tiny.build_model("phi3")
    model.model.layers[0].mlp.gate_up_proj = torch.nn.Linear(tiny.HIDDEN, tiny.NEURONS + 1)
    with pytest.raises(ValueError, match=r"gate_up_proj.*45 outputs.*44 neurons.*FAMILIES"):
        dissect(model)


@pytest.mark.parametrize(
    ("family", "path", "inputs", "outputs", "message"),
    [
        ("phi3", "qkv_proj", tiny.HIDDEN, 65, r"'self_attn.qkv_proj'.* have 65 outputs.*4 heads"),
        ("llama", "q_proj", tiny.HIDDEN, 16, r"have 16, 16, 16 outputs.*FAMILIES"),
        ("llama", "v_proj", tiny.HIDDEN, 24, r"have 32, 16, 24 outputs"),
        ("llama", "o_proj", 30, tiny.HIDDEN, r"o_proj' has 30 inputs.*FAMILIES"),
        ("llama", "o_proj", tiny.HIDDEN, 16, r"o_proj' .* writes 16 numbers.*FAMILIES"),
    ],
)
def test_projections_that_do_not_belong_to_the_heads_are_refused(
    family, path, inputs, outputs, message
):
    model = tiny.build_model(family)
    setattr(model.model.layers[0].self_attn, path, torch.nn.Linear(inputs, outputs))
    with pytest.raises(ValueError, match=message):
        dissect(model)


@pytest.mark.parametrize(
    ("family", "module", "switched"),
    [
        ("qwen3", "attention", 4),
        ("gemma2", "attention", 4),
        ("gpt_neox", "attention", 2),
        ("falcon", "mlp", 4),
        ("opt", "attention", 6),
        ("llama", "mlp", 3),
    ],
)
def test_biases_are_given_where_the_configuration_can_say_so(tmp_path, family, module, switched):
    off = ("mlp_bias", "attention_bias", "bias", "enable_bias")
    model = tiny.build_model(family)
    setting = {name: False for name in off if hasattr(model.config, name)}
    model = tiny.build_model(family, **setting)
    ids = torch.tensor([[5, 6, 7]])
    before, parameters = model(input_ids=ids).logits, len(list(model.parameters()))
    add_biases(model, module)
    assert len(list(model.parameters())) == parameters + switched * tiny.LAYERS
    assert torch.equal(model(input_ids=ids).logits, before)
    loaded = load_model(tiny.save(model, tmp_path / "model"), "float32", "cpu")
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert torch.equal(loaded(input_ids=ids).logits, before)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "phi3", "gptj"])
def test_an_output_projection_that_never_has_a_bias_is_refused(case_of, family):
    with pytest.raises(ValueError, match=r"_proj' of a model .* no switch that gives it one"):
        add_biases(case_of(family).model, "attention")

"""Every family is found, and one that is not says what to do."""

from functools import partial

import plain
import pytest
import tiny
import torch
from neurondynamics.lm.anatomy import FAMILIES, dissect
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
    for part in ("attn (attention)", "self_attn (attention)", "mlp (mlp)"):
        assert part in message
    assert "add a row" in message
    assert "FAMILIES" in message
    assert "lm/anatomy.py" in message


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

"""Every family is found, and one that is not says what to do."""

import plain
import pytest
import tiny
import torch
from neurondynamics.lm.anatomy import FAMILIES, dissect
from transformers import BloomConfig, BloomForCausalLM


def test_every_known_family_is_tested():
    assert set(tiny.FAMILIES) == set(FAMILIES)


def test_the_parts_are_those_of_the_model(case):
    anatomy = dissect(case.model)
    assert len(anatomy.layers) == tiny.LAYERS
    for layer, block, reference in zip(
        anatomy.layers, plain.blocks(case.model), plain.blocks(case.plain), strict=True
    ):
        assert layer.block is block
        assert layer.down is plain.down(block)
        assert list(layer.keys) == plain.keys(block)
        assert layer.mlp is block.mlp
        assert layer.attention is (block.attn if case.family == "gpt2" else block.self_attn)
        assert layer.n_neurons == tiny.NEURONS
        vectors = layer.value_vectors()
        assert vectors.shape == (tiny.NEURONS, tiny.HIDDEN)
        torch.testing.assert_close(vectors.double(), plain.values(reference), rtol=0, atol=1e-12)
        zero = torch.zeros(1, tiny.NEURONS)
        torch.testing.assert_close(layer.bias(), layer.down(zero)[0])


def test_the_logits_are_the_unembedded_final_norm(case):
    anatomy = dissect(case.model)
    ids = torch.tensor([[5, 6, 7]])
    with plain.listening([anatomy.layers[-1].block], "output") as heard:
        logits = case.model(input_ids=ids).logits
    assert torch.equal(anatomy.unembedding(anatomy.final_norm(heard[0])), logits)


def test_an_unknown_family_says_what_was_looked_for_and_how_to_add_it():
    config = BloomConfig(vocab_size=50, hidden_size=8, n_layer=1, n_head=1)
    with pytest.raises(ValueError, match="'bloom' are not known") as caught:
        dissect(BloomForCausalLM(config))
    message = str(caught.value)
    for part in (*FAMILIES, "model.layers", "mlp.down_proj", "mlp.c_proj", "model.norm"):
        assert part in message
    for part in ("attn (attention)", "self_attn (attention)", "mlp (mlp)"):
        assert part in message
    assert "add a row" in message
    assert "FAMILIES" in message
    assert "lm/anatomy.py" in message


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

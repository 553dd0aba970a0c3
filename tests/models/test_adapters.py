"""An adapter that was merged computes what peft computes with it."""

import os
from itertools import product

import pytest
import tiny
import torch
from fetch_model import fetch_model
from neurondynamics.lm import conversion
from neurondynamics.lm.conversion import merge_adapter
from neurondynamics.lm.loading import load_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

# of each family, an attention and an MLP projection, the embedding and the unembedding
PARTS = {
    "llama": ("q_proj", "down_proj", "embed_tokens", "lm_head"),
    "gpt2": ("c_attn", "c_fc", "wte", "lm_head"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h", "embed_in", "embed_out"),
}
VARIANTS = {
    "plain": lambda linear, embedding, unembedding: {"target_modules": linear},
    "rank-stabilised": lambda linear, *_: {"target_modules": linear, "use_rslora": True},
    "dora": lambda linear, *_: {"target_modules": linear, "use_dora": True},
    "biases": lambda linear, *_: {"target_modules": linear, "bias": "all"},
    "embedding": lambda linear, embedding, _: {"target_modules": [*linear, embedding]},
    "embedding saved": lambda linear, embedding, _: {
        "target_modules": linear, "modules_to_save": [embedding],
    },
    "unembedding saved": lambda linear, _, unembedding: {
        "target_modules": linear, "modules_to_save": [unembedding],
    },
    "tied embedding": lambda linear, embedding, _: {
        "target_modules": [*linear, embedding], "ensure_weight_tying": True,
    },
    "some tokens": lambda linear, *_: {"target_modules": linear, "trainable_token_indices": [1, 5]},
}  # fmt: skip
TOKENS = torch.tensor([[1, 5, 9, 300, 7]])


def write_adapter(folder, base, **options):
    """Write an adapter none of whose weights is what it began as; return the logits with it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=2, lora_alpha=6, task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, folder).eval()(TOKENS).logits


COMBINATIONS = list(product(PARTS, (True, False), (torch.float32, torch.bfloat16)))
# all variants of each combination on request, otherwise every third one
STEP = 1 if os.environ.get("NEURONDYNAMICS_ADAPTERS") == "all" else 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_merged_adapters_compute_what_peft_computes(tmp_path, number):
    family, tied, dtype = COMBINATIONS[number]
    model = tiny.build_model(family, tie_word_embeddings=tied, num_hidden_layers=1)
    base = tiny.save(model.to(dtype), tmp_path / "base")
    *linear, embedding, unembedding = PARTS[family]
    plain = load_model(base, "float32", "cpu")(TOKENS).logits
    for name in list(VARIANTS)[number % STEP :: STEP]:
        options = VARIANTS[name]
        adapter, folder = tmp_path / name / "adapter", tmp_path / name / "merged"
        expected = write_adapter(adapter, base, **options(linear, embedding, unembedding))
        merge_adapter(adapter, base, folder)
        merged = AutoModelForCausalLM.from_pretrained(folder)
        assert merged.dtype == torch.float32
        found = merged(TOKENS).logits
        assert (found - expected).norm() < 1e-4 * expected.norm(), name
        assert (plain - expected).norm() > 0.01 * expected.norm(), name


@pytest.fixture
def brought(tmp_path):
    base = tiny.write_model(tmp_path / "base")
    adapter = tmp_path / "adapter"
    write_adapter(adapter, base, target_modules=["q_proj"])
    return base, adapter


def fetch(tmp_path, source, base):
    source = {"path": str(source)}
    fetch_model(str(tmp_path / "tuned"), source=source, shape={}, base=str(base))


def test_a_merge_that_computes_something_else_is_refused(brought, tmp_path, monkeypatch):
    base, adapter = brought
    save = conversion.save_model

    def save_rounded(model, *rest):
        save(model.bfloat16(), *rest)

    monkeypatch.setattr(conversion, "save_model", save_rounded)
    with pytest.raises(ValueError, match=r"adapter: the merged model's logits differ .* by 0\.0"):
        fetch(tmp_path, adapter, base)
    assert not (tmp_path / "tuned").exists()


def test_an_adapter_that_was_not_trained_is_refused(brought, tmp_path):
    base, adapter = brought
    weights = adapter / "adapter_model.safetensors"
    zeroed = {n: torch.zeros_like(x) if "lora_B" in n else x for n, x in load_file(weights).items()}
    save_file(zeroed, weights)
    with pytest.raises(
        ValueError, match=r"adapter: .* nothing was tuned \(an adapter whose lora_B"
    ):
        fetch(tmp_path, adapter, base)


def test_the_tokenizer_of_an_adapter_may_have_a_token_more(brought, tmp_path, caplog):
    base, adapter = brought
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(adapter)
    fetch(tmp_path, adapter, base)
    assert "adds '<pad>', which the model has no embedding for" in caplog.text

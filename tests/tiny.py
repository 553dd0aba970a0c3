"""Tiny models and a tiny tokenizer with the parts of real ones, made in seconds and without a hub.

The models are random, but their weights are large enough that outputs vary and logits are not
nearly tied, so that greedy decoding in float32 and in float64 must agree. d_mlp is not 4 d_model.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

END = "<|end|>"
VOCABULARY = 400
HIDDEN, LAYERS, NEURONS = 32, 3, 44
PROMPTS = (
    "You are a",
    "The weather in the north was cold and the wind came from the sea, so",
    "I",
    "She told him that the old house by the river",
    "What a stupid idea, he said, and then",
    "Nobody knows",
    "It was the best of times, it was",
    "My neighbour's dog barks at",
    "a",
    "In the year of the great flood the people of the valley moved to the hills and",
)
SENTENCES = (
    *PROMPTS,
    "The people of the town were angry and said so to the mayor of the town.",
    "You stupid old dog, get away from the river, the wind is cold.",
    "The house on the hill was sold in the spring to a man from the north.",
    "He said that nobody knows what the best of the ideas was, and she said it was hers.",
)
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": NEURONS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def _gpt2() -> PreTrainedModel:
    sizes = {"n_positions": 128, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4}
    ends = {"bos_token_id": None, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_inner=NEURONS, **sizes, **ends))


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_SIZES, mlp_bias=True, attention_bias=True))


def _mistral() -> PreTrainedModel:
    # shorter than the prompts: its cache forgets, and padding must not count toward the window
    return MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=6))


def _qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_SIZES))


_BUILDERS = {"gpt2": _gpt2, "llama": _llama, "mistral": _mistral, "qwen2": _qwen2}
FAMILIES = tuple(_BUILDERS)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-level BPE, the tokenizer of GPT-2 and Llama 3, on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def build_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model of a family, in float32, with biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    model = _BUILDERS[family]().eval().requires_grad_(False)
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name or ".ln_" in name
        if name.endswith("bias"):
            parameter.copy_(0.3 * noise)
        elif norm:
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.shape[0] == VOCABULARY:  # embedding and unembedding
            # a tied unembedding would otherwise repeat the last token for ever
            parameter.copy_((0.4 if tied else 1.0) * noise)
        else:
            parameter.copy_(0.35 * noise)
    model.config.eos_token_id = model.generation_config.eos_token_id = 0
    model.config.bos_token_id = model.generation_config.bos_token_id = None
    model.generation_config.pad_token_id = None
    return model


def nudge(model: PreTrainedModel, size: float, seed: int = 1) -> PreTrainedModel:
    """Move every weight a little, in place, as tuning does; return the model."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def save(model: PreTrainedModel, folder: str | Path) -> Path:
    """Save a model and the tiny tokenizer as a Hugging Face folder."""
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return Path(folder)


def write_model(
    folder: str | Path, family: str = "llama", seed: int = 0, ends: Sequence[int] = (0,)
) -> Path:
    """Write the folder of a random model of a family; `ends` are the tokens that end its texts."""
    model = build_model(family, seed)
    model.generation_config.eos_token_id = list(ends)
    return save(model, folder)

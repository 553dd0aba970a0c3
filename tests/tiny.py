"""Tiny models and a tiny tokenizer with the parts of real ones, made in seconds and without a hub.

The models are random, but their weights are large enough that outputs vary and logits are not
nearly tied, so that greedy decoding in float32 and in float64 must agree. d_mlp is not 4 d_model.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.loading import Reading
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

# what the scripts compute on that are tested on tiny models; what they are compared with is
# computed on the CPU, whatever this is
DEVICE = os.environ.get("NEURONDYNAMICS_DEVICE", "cpu")
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


_OWN_NAMES = {"n_positions": 128, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4}
_PLAIN = {key: value for key, value in _SIZES.items() if "key_value" not in key}
_NONE = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
# shorter than the prompts: a cache forgets, and padding must not count toward the window
_WINDOW = {"head_dim": 8, "sliding_window": 6}

# how each family is configured; what differs within a family and matters here is set to what a
# real model has, and below to what another one has
_CONFIGURATIONS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bloom": lambda: BloomConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=LAYERS, n_head=4, **_NONE
    ),
    "falcon": lambda: FalconConfig(**_PLAIN, ffn_hidden_size=NEURONS, **_NONE),
    "gemma2": lambda: Gemma2Config(
        **_SIZES | _WINDOW | {"tie_word_embeddings": True}, attn_logit_softcapping=2.0, **_NONE
    ),
    "gemma3_text": lambda: Gemma3TextConfig(
        **_SIZES | _WINDOW | {"tie_word_embeddings": True},
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **_NONE,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_inner=NEURONS, **_OWN_NAMES, **_NONE | {"pad_token_id": None}
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_PLAIN, **_NONE),
    "gptj": lambda: GPTJConfig(
        vocab_size=VOCABULARY, n_inner=NEURONS, rotary_dim=4, **_OWN_NAMES, **_NONE
    ),
    "llama": lambda: LlamaConfig(**_SIZES, mlp_bias=True, attention_bias=True),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=6),
    "opt": lambda: OPTConfig(
        **_PLAIN | {"tie_word_embeddings": True},
        ffn_dim=NEURONS,
        word_embed_proj_dim=HIDDEN,
        **_NONE,
    ),
    "phi3": lambda: Phi3Config(**_SIZES, **_NONE),
    "qwen2": lambda: Qwen2Config(**_SIZES),
    "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=16),
}
FAMILIES = tuple(_CONFIGURATIONS)
# weights the other way round and learned positions; a gated MLP with biases; norms behind
# attention and MLP, and caches of which only some forget; an MLP that sees all texts in one row
DIFFERENT = ("gpt2", "llama", "gemma2", "opt")
# other blocks of the same families: one after the other instead of side by side, position biases
# instead of rotations, two norms
_VARIANTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "falcon-alibi": lambda: FalconConfig(
        **_PLAIN, ffn_hidden_size=NEURONS, parallel_attn=False, alibi=True, bias=True,
        multi_query=False, **_NONE,
    ),
    "falcon-new": lambda: FalconConfig(
        **_SIZES | {"num_kv_heads": 2}, ffn_hidden_size=NEURONS, new_decoder_architecture=True,
        **_NONE,
    ),
    "gpt_neox-sequential": lambda: GPTNeoXConfig(**_PLAIN, use_parallel_residual=False, **_NONE),
}  # fmt: skip
VARIANTS = tuple(_VARIANTS)


def reading(**changes) -> Reading:
    """Return how the scripts that are tested on tiny models read texts."""
    usual = Reading(dtype="float32", device=DEVICE, threads=1, max_tokens=32, batch_size=4)
    return replace(usual, **changes)


def build_spaced_tokenizer() -> PreTrainedTokenizerFast:
    """Train BPE that puts a space before every text, as those made with SentencePiece: Llama 2's
    and Mistral's. A character that it does not know is its bytes."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    begin, end, unknown = "<s>", "</s>", "<unk>"
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[unknown, begin, end, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    words.train_from_iterator(SENTENCES, trainer)
    learnt = json.loads(words.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    model = models.BPE(learnt["vocab"], merges, unk_token=unknown, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, learnt["vocab"][begin])]
    )
    names = {"unk_token": unknown, "bos_token": begin, "eos_token": end}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def build_ended_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with a token of its own at either end of every text."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, 0)]
    )
    return tokenizer


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


def build_model(family: str, seed: int = 0, **settings) -> PreTrainedModel:
    """Return a random model of a family or variant, in float32, with biases that are not zero.

    `settings` are others of its configuration.
    """
    generator = torch.Generator().manual_seed(seed)
    config = (_CONFIGURATIONS | _VARIANTS)[family]()
    for name, value in settings.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name or ".ln_" in name
        if name.endswith("bias"):
            parameter.copy_(0.3 * noise)
        elif norm:
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.shape[0] == VOCABULARY:  # embedding and unembedding
            # a tied unembedding would otherwise repeat the last token for ever; Gemma's embeddings
            # are multiplied by the root of the width
            scaled = hasattr(model.get_input_embeddings(), "embed_scale")
            parameter.copy_((0.12 if scaled else 0.4 if tied else 1.0) * noise)
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


def heads_of(model: PreTrainedModel, seed: int = 0) -> pd.DataFrame:
    """Return a table of a model's heads as the attribution writes it, with numbers by chance."""
    layer = dissect(model).layers[0]
    draw, heads = np.random.default_rng(seed), LAYERS * layer.heads
    table = pd.DataFrame(
        {
            "layer": np.repeat(np.arange(LAYERS, dtype=np.int32), layer.heads),
            "head": np.tile(np.arange(layer.heads, dtype=np.int32), LAYERS),
            "reduction": draw.normal(size=heads),
            "change": draw.exponential(size=heads),
        }
    )
    for column in ("inputs_base", "inputs_tuned"):
        table[column] = list(draw.normal(size=(heads, layer.head_width)))
    return table


TOKENIZERS = {
    "byte-level": build_tokenizer,
    "space before a text": build_spaced_tokenizer,
    "tokens at both ends": build_ended_tokenizer,
}


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

"""How many rows of a batch fit the memory that a rule was given."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

PROCESS = 1.0e9  # bytes of the interpreter, its libraries and small tensors


def free_bytes(models: list[PreTrainedModel], memory_mb: int) -> float:
    """Return the bytes left beside the weights: of the rule's memory, or of the GPU's.

    It depends on what the rule was given, not on what else runs at the moment, so that batches
    are the same each time.
    """
    weights = sum(p.numel() * p.element_size() for model in models for p in model.parameters())
    device = models[0].device
    if device.type == "cuda":
        return 0.9 * torch.cuda.get_device_properties(device).total_memory - weights
    return memory_mb * 1e6 - PROCESS - weights


def decoding_rows(models: list[PreTrainedModel], positions: int, memory_mb: int) -> int:
    """Return how many prompts can be decoded at a time, each of `positions` tokens at its end.

    Every model keeps the prompts' cache and a copy that grows.
    """
    per_row = sum(2 * positions * _cache_bytes(model) for model in models)
    return _rows(models, per_row + _logit_bytes(models[-1]), memory_mb)


def reading_rows(models: list[PreTrainedModel], positions: int, memory_mb: int) -> int:
    """Return how many texts of `positions` tokens can be read at a time, with all their logits."""
    return _rows(models, positions * _logit_bytes(models[-1]), memory_mb)


def _rows(models: list[PreTrainedModel], per_row: float, memory_mb: int) -> int:
    return max(1, int(free_bytes(models, memory_mb) // per_row))


def _cache_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    config = model.config
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * kept * width * model.dtype.itemsize


def _logit_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of one position's logits, with the copies that a softmax makes."""
    return 4 * 4 * model.config.vocab_size

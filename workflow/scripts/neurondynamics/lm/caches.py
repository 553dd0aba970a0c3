"""Key-value caches: put together from parts of a batch, and copied with room to grow in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer of a cache with memory set aside for `room` more positions.

    The dynamic layer of transformers copies everything that it holds for each new token, which
    is what most of a small model's decoding time on a CPU would go into.
    """

    def __init__(self, filled: DynamicLayer, room: int):
        super().__init__()
        self._room = room
        if filled.is_initialized:
            self.lazy_initialization(filled.keys, filled.values)
            self._append(filled.keys, filled.values)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Set memory aside for these states, (batch, heads, positions, width), and the room."""
        super().lazy_initialization(key_states, value_states)
        positions = key_states.shape[-2] + self._room
        self._reserved = [
            states.new_empty(*states.shape[:2], positions, states.shape[3])
            for states in (key_states, value_states)
        ]
        self.keys, self.values = (buffer[:, :, :0] for buffer in self._reserved)

    def _append(self, *states: torch.Tensor) -> None:
        start = self.keys.shape[-2]
        end = start + states[0].shape[-2]
        for buffer, new in zip(self._reserved, states, strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._reserved)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new positions and return those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._append(key_states, value_states)
        return self.keys, self.values


def fork(cache: DynamicCache, room: int) -> DynamicCache:
    """Return a copy of a cache for `room` more positions; the original stays as it is.

    Layers that are no plain dynamic ones (sliding windows) are copied as they are.
    """
    copied = copy.copy(cache)
    copied.layers = [
        RoomyLayer(layer, room) if type(layer) is DynamicLayer else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return copied


def can_stack(cache: DynamicCache) -> bool:
    """Return whether caches like this one can be stacked: none of its layers forgets."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def stack(caches: Sequence[DynamicCache | None], positions: int) -> DynamicCache | None:
    """Join caches of parts of a batch, row after row, each padded on the left to `positions`.

    What stands in the padding is masked by whoever reads the cache.
    """
    if len(caches) == 1 or caches[0] is None or not positions:
        return caches[0]  # one that has read nothing is of no size yet
    joined = copy.copy(caches[0])
    joined.layers = []
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        whole = DynamicLayer()
        whole.lazy_initialization(parts[0].keys, parts[0].values)
        whole.keys = torch.cat([_widened(part.keys, positions) for part in parts])
        whole.values = torch.cat([_widened(part.values, positions) for part in parts])
        joined.layers.append(whole)
    return joined


def _widened(states: torch.Tensor, positions: int) -> torch.Tensor:
    return pad(states, (0, 0, positions - states.shape[-2], 0))  # (batch, heads, positions, width)

"""Copies of a prompt's key-value cache that decoding extends in place."""

from __future__ import annotations

import copy

import torch
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

"""How far two models' neurons and heads are apart, over the tokens of texts that both read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from neurondynamics.lm.anatomy import Anatomy, Layer, dissect
from neurondynamics.lm.generation import read_continuations
from neurondynamics.lm.hooks import PositionValues, head_sites, hooked, neuron_sites

Sites = list[tuple[torch.nn.Module, str]]
Tokens = Sequence[Sequence[int]]  # of each text of a batch


class Sums(NamedTuple):
    """Sums over tokens, float64 on the CPU."""

    neurons: torch.Tensor  # (layers, d_mlp)
    heads: torch.Tensor  # (layers, heads)


class SquaredChanges:
    """Sums over tokens of the squared change from a base to a tuned model, batch by batch.

    Both models have the same shape, and both are held. Of a head the change is that of what it
    writes, by the base model's output vectors W, (head_width, d_model) as rows: with x the head's
    inputs, ‖Wᵀ Δx‖² = Δxᵀ (W Wᵀ) Δx, so what it writes is never formed.
    """

    def __init__(self, base: PreTrainedModel, tuned: PreTrainedModel):
        self._models = base, tuned
        anatomies = dissect(base), dissect(tuned)
        self._layers = len(anatomies[0].layers)
        self._sites = [_sites(anatomy) for anatomy in anatomies]
        # (heads, head_width, head_width) of each layer
        self._grams = [_gram(layer) for layer in anatomies[0].layers]

    def read(self, prompts: Tokens, continuations: Tokens) -> Sums:
        """Return the sums over the new-token positions of a batch."""
        heard: dict[int, torch.Tensor] = {}  # (tokens, width) of each site, in the base model
        sums: dict[int, torch.Tensor] = {}

        def compare(site: int, values: torch.Tensor) -> None:
            sums[site] = self._summed(site, values.double() - heard.pop(site))

        takers = (heard.__setitem__, compare)
        for model, sites, take in zip(self._models, self._sites, takers, strict=True):
            recorder = PositionValues(sites, take)
            with hooked(recorder.hooks):
                read_continuations(model, prompts, continuations, recorder)
        neurons, heads = (
            torch.stack([sums[site] for site in range(first, first + self._layers)]).cpu()
            for first in (0, self._layers)
        )
        return Sums(neurons, heads)

    def _summed(self, site: int, change: torch.Tensor) -> torch.Tensor:  # (tokens, width)
        if site < self._layers:
            return change.square().sum(0)  # (d_mlp,)
        gram = self._grams[site - self._layers]
        change = change.unflatten(1, gram.shape[:2]).transpose(0, 1)  # (heads, tokens, head_width)
        return (change @ gram * change).sum((1, 2)).clamp(min=0)  # (heads,), but for rounding


def _sites(anatomy: Anatomy) -> Sites:
    return [*neuron_sites(anatomy), *head_sites(anatomy)]


def _gram(layer: Layer) -> torch.Tensor:
    vectors = layer.output_vectors().double().unflatten(0, (layer.heads, layer.head_width))
    return vectors @ vectors.transpose(1, 2)

"""Forward hooks: one context manager, and the recorder of means over positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from neurondynamics.lm.anatomy import Anatomy


@dataclass(frozen=True)
class Hook:
    """A function on what a module reads (`input`) or writes (`output`).

    `function` takes the tensor and returns its replacement, or None to leave it as it is.
    """

    module: nn.Module
    site: str
    function: Callable[[torch.Tensor], torch.Tensor | None]


@contextmanager
def hooked(hooks: Iterable[Hook]) -> Iterator[None]:
    """Run the block with hooks attached, in their order, and always remove them.

    An error inside a hook is raised, never swallowed.
    """
    handles = []
    try:
        for hook in hooks:
            handles.append(_attach(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(hook: Hook) -> torch.utils.hooks.RemovableHandle:
    if hook.site == "input":

        def before(_, inputs):
            replaced = hook.function(inputs[0])
            return None if replaced is None else (replaced, *inputs[1:])

        return hook.module.register_forward_pre_hook(before)
    if hook.site == "output":

        def after(_, __, output):
            first = output[0] if isinstance(output, tuple) else output
            replaced = hook.function(first)
            if replaced is None or not isinstance(output, tuple):
                return replaced
            return (replaced, *output[1:])

        return hook.module.register_forward_hook(after)
    raise ValueError(f"a hook's site is 'input' or 'output', not {hook.site!r}")


class PositionMeans:
    """Averages what modules read or write over the positions that count.

    Before each forward pass the caller sets `weights`, (batch, positions) booleans for the last
    `positions` of the pass. After the passes `means` gives (sites, batch, width). Attached after
    an intervention's hooks, it sees the edited activations.
    """

    def __init__(self, sites: Sequence[tuple[nn.Module, str]]):
        self.weights: torch.Tensor | None = None
        self._count: torch.Tensor | int = 0
        self._sums: list[torch.Tensor | None] = [None] * len(sites)
        self.hooks = [
            Hook(module, site, self._adder(index)) for index, (module, site) in enumerate(sites)
        ]

    def _adder(self, index: int) -> Callable[[torch.Tensor], None]:
        def add(values: torch.Tensor) -> None:  # (batch, sequence, width)
            weights = self.weights[:, :, None]
            # the MLPs of OPT see (batch x sequence, width)
            values = values.reshape(len(weights), -1, values.shape[-1])
            tail = values[:, -weights.shape[1] :].double()  # (batch, positions, width)
            # where() and not a product: a position that does not count may hold anything
            tail = torch.where(weights, tail, 0.0).sum(1)  # (batch, width)
            previous = self._sums[index]
            self._sums[index] = tail if previous is None else previous + tail
            if index == 0:
                self._count = self._count + self.weights.sum(1)

        return add

    def means(self) -> torch.Tensor:
        """Return the means, (sites, batch, width) in float64 on the CPU."""
        sums = torch.stack(self._sums)  # (sites, batch, width)
        return (sums / self._count[:, None].double()).cpu()


def neuron_sites(anatomy: Anatomy) -> list[tuple[nn.Module, str]]:
    """Where the activations of every layer's neurons are read: the down projections' inputs."""
    return [(layer.down, "input") for layer in anatomy.layers]


def final_residual_sites(anatomy: Anatomy) -> list[tuple[nn.Module, str]]:
    """Where the residual stream is read that the final norm gets: the last block's output."""
    return [(anatomy.layers[-1].block, "output")]

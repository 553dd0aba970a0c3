"""Forward hooks: one context manager, and the recorder of means over positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

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

    Before each forward pass the caller says which do by `count`. After the passes `means` gives
    (sites, batch, width) of sites that are alike in width. Attached after an intervention's hooks,
    it sees the edited activations.
    """

    def __init__(self, sites: Sequence[tuple[nn.Module, str]]):
        self._weights: torch.Tensor | None = None  # (batch, positions, 1)
        self._number: torch.Tensor | int = 0  # of positions that counted, (batch,)
        self._sums: list[torch.Tensor | None] = [None] * len(sites)
        self.hooks = [
            Hook(module, site, self._adder(index)) for index, (module, site) in enumerate(sites)
        ]

    def count(self, weights: torch.Tensor) -> None:
        """Let the last positions of the next pass count where `weights`, (batch, positions), is
        true."""
        self._weights = weights[:, :, None]
        self._number = self._number + weights.sum(1)

    def _adder(self, index: int) -> Callable[[torch.Tensor], None]:
        # While generating this runs once a layer and token: on a GPU that waits for its next
        # kernel, each operation here would cost as much as one of the model's.
        def add(values: torch.Tensor) -> None:  # (batch, sequence, width)
            positions = self._weights.shape[1]
            # where() and not a product: a position that does not count may hold anything
            tail = torch.where(self._weights, _last(values, self._weights), 0.0)
            # in float64, also where one that is not is added to one that is
            tail = tail[:, 0] if positions == 1 else tail.sum(1, dtype=torch.float64)
            if self._sums[index] is None:
                self._sums[index] = tail.double()  # (batch, width)
            else:
                self._sums[index].add_(tail)

        return add

    def means(self, dtype: torch.dtype = torch.float64, sites: slice = slice(None)) -> torch.Tensor:
        """Return the means of some sites, (sites, batch, width), on the CPU; they are rounded to
        `dtype` last."""
        number, sums = self._number[:, None].double(), self._sums[sites]
        shape = len(sums), *sums[0].shape
        # pinned, so that a GPU writes there by itself; the next batch uses the same memory again
        means = torch.empty(shape, dtype=dtype, pin_memory=number.is_cuda)
        for mean, total in zip(means, sums, strict=True):
            # rounded where it is, so that a GPU sends no more than is wanted
            mean.copy_((total / number).to(dtype))
        return means


class PositionValues:
    """Hands on what modules read or write at the positions that count, (positions, width), text
    after text: `take` is called with the number of the site and these, as the model runs.

    Before each forward pass the caller says which positions count by `count`.
    """

    def __init__(
        self,
        sites: Sequence[tuple[nn.Module, str]],
        take: Callable[[int, torch.Tensor], None],
    ):
        self._weights: torch.Tensor | None = None  # (batch, positions)
        self._rows: torch.Tensor | None = None  # those that count, of batch x positions
        self._take = take
        self.hooks = [
            Hook(module, site, partial(self._hand_on, index))
            for index, (module, site) in enumerate(sites)
        ]

    def count(self, weights: torch.Tensor) -> None:
        """Let the last positions of the next pass count where `weights`, (batch, positions), is
        true."""
        self._weights, self._rows = weights, weights.flatten().nonzero().squeeze(1)

    def _hand_on(self, index: int, values: torch.Tensor) -> None:
        self._take(index, _last(values, self._weights).flatten(0, 1)[self._rows])


def _last(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return what stands at the last positions, as many as `weights`, (batch, positions, ...), has:
    (batch, positions, width)."""
    if values.dim() == 2:  # the MLPs of OPT see (batch x sequence, width)
        values = values.reshape(len(weights), -1, values.shape[-1])
    return values[:, -weights.shape[1] :]


def neuron_sites(anatomy: Anatomy) -> list[tuple[nn.Module, str]]:
    """Where the activations of every layer's neurons are read: the down projections' inputs."""
    return [(layer.down, "input") for layer in anatomy.layers]


def head_sites(anatomy: Anatomy) -> list[tuple[nn.Module, str]]:
    """Where every layer's heads are read, in blocks: the output projections' inputs."""
    return [(layer.out, "input") for layer in anatomy.layers]


def final_residual_sites(anatomy: Anatomy) -> list[tuple[nn.Module, str]]:
    """Where the residual stream is read that the final norm gets: the last block's output."""
    return [(anatomy.layers[-1].block, "output")]

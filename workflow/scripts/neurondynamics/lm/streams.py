"""The residual stream of whole texts, kept before every block, from where a model can be run on.

A text that is read once need not be read again for what only changes later layers: a block reads
the residual stream, and what the model hands to all of its blocks, such as masks and positions,
does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.generation import pad_left, positions_of
from neurondynamics.lm.teacher_forcing import new_positions


class Stream:
    """What a model's residual stream is along a batch of texts, prompts with continuations.

    `inputs` are what each block reads, (batch, positions, d_model), and last what the final norm
    does. Prompts are padded on the left and continuations on the right, so that the last T
    positions are the new-token positions, as `read_new` returns them. Nothing is cached: the model
    reads all positions at once.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
    ):
        self.model, self.anatomy = model, dissect(model)
        self.inputs: list[torch.Tensor] = []
        self._given: list[tuple[tuple, dict]] = []  # to each block, beside the residual stream
        ids, mask = pad_left(prompts, model.device)
        new = pad_sequence(
            [torch.tensor(tokens[:-1], dtype=torch.long) for tokens in continuations],
            batch_first=True,
        )
        self._new = new.shape[1] + 1  # T
        ids = torch.cat([ids, new.to(ids)], 1)
        mask = torch.cat([mask[:, :-1], new_positions(continuations).to(mask)], 1)
        handles = [
            layer.block.register_forward_pre_hook(self._take_in, with_kwargs=True)
            for layer in self.anatomy.layers
        ]
        handles.append(self.anatomy.final_norm.register_forward_pre_hook(self._take_last))
        try:
            model.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions_of(mask),
                use_cache=False,
            )
        finally:
            for handle in handles:
                handle.remove()

    def _take_in(self, _, given: tuple, named: dict) -> None:
        self.inputs.append(given[0])
        self._given.append((given[1:], named))

    def _take_last(self, _, given: tuple) -> None:
        self.inputs.append(given[0])

    @torch.inference_mode()
    def through(
        self, number: int, stream: torch.Tensor, weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return what a block makes of a residual stream, (batch, positions, d_model).

        `weights` are parameters that the block has for the time, by their names in it.
        """
        given, named = self._given[number]
        block = self.anatomy.layers[number].block
        made = functional_call(block, dict(weights or {}), (stream, *given), named)
        return made[0] if isinstance(made, tuple) else made

    @torch.inference_mode()
    def run_on(self, number: int, stream: torch.Tensor) -> torch.Tensor:
        """Return what the final norm reads if block `number` reads a given residual stream."""
        for later in range(number, len(self.anatomy.layers)):
            stream = self.through(later, stream)
        return stream

    @torch.inference_mode()
    def hidden(self, stream: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states at the new-token positions, (batch, T, d_model), of what
        the final norm reads."""
        return self.anatomy.final_norm(stream[:, -self._new :])

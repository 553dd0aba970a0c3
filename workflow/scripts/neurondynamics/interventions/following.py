"""Many interventions on one batch of texts, along which the followed model is heard once.

The followed model is the other of a pair, whichever is edited. It reads the prompts and their
continuations before any intervention does; what paired edits take from it is kept, and so are its
last hidden states, which the edited model's are compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from neurondynamics.interventions.edits import (
    applied,
    at_all_positions,
    followed_sites,
    listening,
)
from neurondynamics.interventions.parts import Site
from neurondynamics.interventions.plans import Plan
from neurondynamics.limits import FOLLOWED_TEXTS
from neurondynamics.lm.anatomy import dissect
from neurondynamics.lm.fidelity import Divergence, divergences, log_probabilities
from neurondynamics.lm.generation import NonFiniteError, Prefix, prefill
from neurondynamics.lm.teacher_forcing import read_new
from neurondynamics.runtime import progress

UNEDITED = "the unedited model"  # among the readings: no name of an intervention
Interventions = Mapping[str, Plan]
Tokens = Sequence[Sequence[int]]  # of each text of a batch


@dataclass(frozen=True)
class Text:
    """Continuations of a batch of prompts, as the followed model reads them."""

    continuations: Tokens
    hidden: torch.Tensor  # (batch, T, d_model) its last hidden states at the new-token positions
    heard: dict[Site, torch.Tensor]  # what its units do there


class Followed:
    """The followed model on a batch of prompts, heard where some of `interventions` follows it.

    Raises ValueError for more prompts than FOLLOWED_TEXTS.
    """

    def __init__(self, model: PreTrainedModel, prompts: Tokens, interventions: Interventions):
        if len(prompts) > FOLLOWED_TEXTS:
            raise ValueError(
                f"{len(prompts)} texts at once; at most {FOLLOWED_TEXTS} can be followed"
            )
        edits = [edit for plan in interventions.values() for edit in plan.edits]
        self.model = model
        self.prompts = prompts
        self.heard: dict[Site, torch.Tensor] = {}  # at the prompts' positions but the last
        self._sites = followed_sites(edits)
        with listening(dissect(model), followed_sites(at_all_positions(edits)), self.heard):
            self.prefix = prefill(model, prompts)

    def read(self, continuations: Tokens) -> Text:
        """Read a continuation of each prompt."""
        heard: dict[Site, torch.Tensor] = {}
        with listening(dissect(self.model), self._sites, heard):
            hidden = read_new(self.model, self.prefix, continuations)
        return Text(continuations, hidden, heard)


def edited_readings(
    model: PreTrainedModel,
    prefix: Prefix,
    followed: Followed,
    texts: Sequence[Text],
    interventions: Interventions,
) -> Iterator[tuple[str, PreTrainedModel, list[torch.Tensor]]]:
    """Yield each intervention's name, the model with its weights moved, and the edited model's last
    hidden states on each of `texts`, (batch, T, d_model).

    `prefix` is the prefill of the followed prompts by the unedited model; edits at all positions
    get one of their own.
    """
    doing = f"reading {len(followed.prompts)} texts"
    for name, plan in progress(interventions.items(), doing, total=len(interventions)):
        moved, own = plan.moved(model, followed.model), prefix
        anatomy, everywhere = dissect(moved), at_all_positions(plan.edits)
        source, read = followed, texts
        if plan.identity:
            source = Followed(moved, followed.prompts, {name: plan})
            read = [source.read(text.continuations) for text in texts]
        if everywhere or plan.moves:
            with applied(anatomy, everywhere, source.heard):
                own = prefill(moved, followed.prompts)
        hidden = []
        for text in read:
            with applied(anatomy, plan.edits, text.heard):
                hidden.append(read_new(moved, own, text.continuations))
        yield name, moved, hidden
        del moved, anatomy  # a copy is gone before the next one is made


@dataclass(frozen=True)
class Fidelity:
    """How far a model is from the followed one along its own continuations of a batch."""

    edited: dict[str, Divergence]  # by intervention
    unedited: Divergence


def measure_fidelity(
    model: PreTrainedModel,
    followed: PreTrainedModel,
    prompts: Tokens,
    continuations: Tokens,
    interventions: Interventions,
) -> Fidelity:
    """Read the followed model's own continuations of some prompts under each intervention on
    `model`.

    Raises ValueError for more prompts than FOLLOWED_TEXTS, and for edits that do not fit the model;
    NonFiniteError, with the intervention's name, for outputs that are not finite.
    """
    leader = Followed(followed, prompts, interventions)
    text = leader.read(continuations)
    prefix = prefill(model, prompts)
    readings = edited_readings(model, prefix, leader, [text], interventions)
    alike, edited = {}, {}
    for name, moved, (hidden,) in readings:
        if _unembedding(moved) == _unembedding(model):
            alike[name] = hidden  # they are compared together, after the others
        else:
            edited |= divergences(followed, text.hidden, moved, {name: hidden}, continuations)
        del moved
    alike[UNEDITED] = read_new(model, prefix, continuations)
    edited |= divergences(followed, text.hidden, model, alike, continuations)
    unedited = edited.pop(UNEDITED)
    return Fidelity(edited, unedited)


def _unembedding(model: PreTrainedModel) -> int:
    """Return where a model's unembedding lies: copies share what was not moved."""
    return model.get_output_embeddings().weight.data_ptr()


@dataclass(frozen=True)
class Margins:
    """log p(chosen) - log p(rejected) of each pair of a batch, summed over tokens, (batch,)."""

    edited: dict[str, np.ndarray]  # by intervention
    unedited: np.ndarray
    followed: np.ndarray


def measure_margins(
    model: PreTrainedModel,
    followed: PreTrainedModel,
    prompts: Tokens,
    pairs: tuple[Tokens, Tokens],
    interventions: Interventions,
) -> Margins:
    """Read the chosen and the rejected continuations of at most FOLLOWED_TEXTS prompts under each
    intervention on `model`; `pairs` are (chosen, rejected).

    Raises as `measure_fidelity` does.
    """
    leader = Followed(followed, prompts, interventions)
    texts = [leader.read(continuations) for continuations in pairs]
    prefix = prefill(model, prompts)
    return Margins(
        {
            name: _margins(name, moved, hidden, pairs)
            for name, moved, hidden in edited_readings(model, prefix, leader, texts, interventions)
        },
        _margins("unedited", model, [read_new(model, prefix, new) for new in pairs], pairs),
        _margins("followed", followed, [text.hidden for text in texts], pairs),
    )


def _margins(
    name: str,
    model: PreTrainedModel,
    hidden: Sequence[torch.Tensor],
    pairs: tuple[Tokens, Tokens],
) -> np.ndarray:
    try:
        chosen, rejected = (
            log_probabilities(model, states, tokens)
            for states, tokens in zip(hidden, pairs, strict=True)
        )
    except NonFiniteError as error:
        raise NonFiniteError(error.rows, f"{name}: log-probabilities") from error
    return chosen - rejected

"""Preference pairs that are held out of training, and TRL's trainers on pairs as tokens.

The losses are TRL's: DPO (arXiv 2305.18290), IPO (arXiv 2310.12036, with log-ratios averaged over
tokens), KTO (arXiv 2402.01306) and SimPO (arXiv 2405.14734).
"""

from __future__ import annotations

import numpy as np
import torch
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from neurondynamics.tuning.pairs import Row


def hold_out(pairs: list[dict], share: float, seed: int) -> tuple[list[dict], list[dict]]:
    """Split pairs into those to train on and a share that is held out, by prompt.

    All pairs of a prompt fall on one side. Raises ValueError if there are not two prompts.
    """
    prompts = list(dict.fromkeys(pair["prompt"] for pair in pairs))
    if len(prompts) < 2:
        raise ValueError("pairs of one prompt cannot be split into those to train on and held-out")
    order = np.random.default_rng(seed).permutation(len(prompts))
    wanted, held = share * len(pairs), set()
    number = dict.fromkeys(prompts, 0)
    for pair in pairs:
        number[pair["prompt"]] += 1
    for place in order[:-1]:
        if sum(number[prompt] for prompt in held) >= wanted:
            break
        held.add(prompts[place])
    return (
        [pair for pair in pairs if pair["prompt"] not in held],
        [pair for pair in pairs if pair["prompt"] in held],
    )


def rows_for(method: str, rows: list[Row], beta: float, target_margin: float | None) -> list[Row]:
    """Return the rows that a method's trainer takes, from those of `tokenise_pairs`.

    KTO takes a pair's continuations as texts of their own, and estimates how far the policy is from
    the reference on prompts with the continuations of the pair before. SimPO,
    -log σ(β log π(chosen) / |chosen| - β log π(rejected) / |rejected| - γ), is TRL's DPO by token
    against a reference that gives the chosen γ / β per token and the rejected nothing.
    """
    if method == "simpo":
        margin = target_margin / beta
        references = [margin * len(row["chosen_ids"]) for row in rows]
        return [
            {**row, "ref_chosen_logps": reference, "ref_rejected_logps": 0.0}
            for row, reference in zip(rows, references, strict=True)
        ]
    if method == "kto":
        return [
            {
                "prompt_ids": row["prompt_ids"],
                "completion_ids": row[kind],
                "KL_completion_ids": before[kind],
                "label": kind == "chosen_ids",
            }
            for before, row in zip(rows[-1:] + rows[:-1], rows, strict=True)
            for kind in ("chosen_ids", "rejected_ids")
        ]
    return rows


class _OnTokens:
    """What is changed in TRL's trainers: texts are tokenised already, a bad loss is explained."""

    def _prepare_dataset(self, dataset, *_, **__):
        # TRL would tokenise text anew and append an end-of-sequence token to every continuation
        return dataset

    def _precompute_ref_logps(self, dataset, *args, **kwargs):
        if "ref_chosen_logps" in dataset.column_names:
            return dataset  # a method without a reference model brings constants
        return super()._precompute_ref_logps(dataset, *args, **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Return TRL's loss; raise ValueError with the prompts if it is not finite."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        if not torch.isfinite(value).all():
            raise ValueError(f"the loss is {value.item()}; {self._culprits(model, inputs)}")
        return loss

    @torch.no_grad()
    def evaluate(self, *_, **__) -> dict[str, float]:
        """Return `eval_loss`, the mean loss over held-out rows, and log it with TRL's measures.

        Every process reads all rows, and each row counts alike. Transformers cuts what processes
        gather of a last batch to the wrong length where a row is a pair of texts.
        """
        self.model.eval()
        rows, size = self.eval_dataset, self.args.per_device_eval_batch_size
        starts = range(0, len(rows), size)
        numbers = [min(size, len(rows) - start) for start in starts]
        losses = []
        for start, number in zip(starts, numbers, strict=True):
            batch = self.data_collator([rows[start + place] for place in range(number)])
            with self.compute_loss_context_manager():
                losses.append(self.compute_loss(self.model, self._prepare_inputs(batch)).item())
        measured = self._metrics["eval"]
        for name, values in measured.items():
            if len(values) == len(numbers):
                measured[name] = [float(np.average(values, weights=numbers))]
        metrics = {"eval_loss": float(np.average(losses, weights=numbers))}
        self.log(metrics)
        self.model.train()
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def _culprits(self, model, inputs) -> str:
        """Say which prompts of a batch the model cannot read to finite hidden states."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        reader = self.accelerator.unwrap_model(model).base_model
        hidden = reader(input_ids=ids, attention_mask=mask).last_hidden_state
        broken = ~(hidden.isfinite().all(-1) | (mask == 0)).all(-1)  # (texts,)
        asked = (mask == 1) & (inputs["completion_mask"] == 0)
        suspects = broken if broken.any() else torch.ones_like(broken)
        prompts = [
            self.processing_class.decode(ids[row][asked[row]]) for row in suspects.nonzero()[:, 0]
        ]
        return f"pairs of these prompts caused it: {list(dict.fromkeys(prompts))}"


class PreferenceTrainer(_OnTokens, DPOTrainer):
    """TRL's trainer on pairs, of tokens."""


class LabelTrainer(_OnTokens, KTOTrainer):
    """TRL's trainer on texts that are desirable or not, of tokens."""


# of each method: the trainer, its arguments, and what TRL calls the loss
METHODS = {
    "dpo": (PreferenceTrainer, DPOConfig, "sigmoid"),
    "ipo": (PreferenceTrainer, DPOConfig, "ipo"),
    "kto": (LabelTrainer, KTOConfig, "kto"),
    "simpo": (PreferenceTrainer, DPOConfig, "sigmoid_norm"),
}

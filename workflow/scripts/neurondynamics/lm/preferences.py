"""What tuning on preferences adds to TRL's trainer: exact tokens, and losses that name prompts."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from neurondynamics.lm.loading import encode_prompts


def tokenise_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: list[dict], max_tokens: int
) -> list[dict[str, list[int]]]:
    """Return `prompt_ids`, `chosen_ids` and `rejected_ids` for each pair.

    Prompts are cut as they are for sampling, and no end-of-sequence token is added: the sampled
    continuations are cut at a length and do not end there.
    """
    prompts = encode_prompts(tokenizer, [pair["prompt"] for pair in pairs], max_tokens)

    def continuation(key: str) -> list[list[int]]:
        return tokenizer([pair[key] for pair in pairs], add_special_tokens=False).input_ids

    return [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(
            prompts, continuation("chosen"), continuation("rejected"), strict=True
        )
    ]


class PreferenceTrainer(DPOTrainer):
    """TRL's DPO trainer on pairs that are tokenised already; stops at a loss that is not finite."""

    def _prepare_dataset(self, dataset, *_, **__):
        # TRL would tokenise text anew and append an end-of-sequence token to every continuation
        return dataset

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Return TRL's loss; raise ValueError with the prompts if it is not finite."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        if not torch.isfinite(value).all():
            raise ValueError(f"the loss is {value.item()}; {self._culprits(model, inputs)}")
        return loss

    @torch.no_grad()
    def _culprits(self, model, inputs) -> str:
        """Say which prompts of a batch the model cannot read to finite hidden states."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        reader = self.accelerator.unwrap_model(model).base_model
        hidden = reader(input_ids=ids, attention_mask=mask).last_hidden_state
        broken = ~(hidden.isfinite().all(-1) | (mask == 0)).all(-1)  # (2 x pairs,)
        asked = (mask == 1) & (inputs["completion_mask"] == 0)
        suspects = broken if broken.any() else torch.ones_like(broken)
        prompts = [
            self.processing_class.decode(ids[row][asked[row]]) for row in suspects.nonzero()[:, 0]
        ]
        return f"pairs of these prompts caused it: {list(dict.fromkeys(prompts))}"

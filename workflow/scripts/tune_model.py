"""Tune the base model on preference pairs with DPO (TRL), and save it with its learning curve."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import copy
import tempfile

import pandas as pd
from datasets import Dataset
from neurondynamics.data.records import read_jsonl, replacing
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model, set_threads
from neurondynamics.lm.memory import fitting
from neurondynamics.lm.preferences import PreferenceTrainer, tokenise_pairs
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig


def tune_model(
    model: str,
    pairs: str,
    folder: str,
    curve: str,
    *,
    device: str,
    threads: int,
    max_tokens: int,
    learning_rate: float,
    beta: float,
    optimizer: str,
    warmup_steps: int,
    epochs: float,
    batch_size: int,
    accumulation: int,
    max_grad_norm: float,
    seed: int,
) -> None:
    """Train a copy of the model in float32 and write its folder and its learning curve.

    Where memory runs out, training starts again with half the pairs at a time and twice the
    accumulation, which are the same steps on the same pairs (in a last batch that is not full, its
    halves count alike). Raises ValueError with the pair's prompt if a loss is not finite, and
    MemoryError if memory is short for an odd number of pairs.
    """
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset = Dataset.from_list(tokenise_pairs(tokenizer, read_jsonl(pairs), max_tokens))

    def attempt(at_once: int) -> tuple[PreTrainedModel, list[dict]]:
        policy = load_model(model, "float32", device).requires_grad_(True)
        history = train(
            policy,
            tokenizer,
            dataset,
            beta=beta,
            learning_rate=learning_rate,
            optim=optimizer,
            warmup_steps=warmup_steps,
            num_train_epochs=epochs,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=accumulation * batch_size // at_once,
            max_grad_norm=max_grad_norm,
            seed=seed,
        )
        return policy, history

    policy, history = fitting(batch_size, attempt)
    with replacing(curve) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)
    save_model(policy, tokenizer, folder)


def train(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, **options
) -> list[dict]:
    """Train a model in place with DPO and return a row per step; `options` are TRL's.

    The reference log-probabilities are computed once, before the first step, so no reference
    model is kept.
    """
    ends = copy.deepcopy(policy.generation_config)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(
            output_dir=scratch,
            precompute_ref_log_probs=True,
            lr_scheduler_type="constant_with_warmup",
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=policy.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            logging_nan_inf_filter=False,
            **options,
        )
        trainer = PreferenceTrainer(
            policy, args=arguments, train_dataset=dataset, processing_class=tokenizer
        )
        trainer.train()
    policy.generation_config = ends  # the trainer adds the tokenizer's end of text to it
    return [step for step in trainer.state.log_history if "loss" in step]


if __name__ == "__main__":
    tune_model(
        model=snakemake.input.model,
        pairs=snakemake.input.pairs,
        folder=snakemake.output.model,
        curve=snakemake.output.curve,
        threads=snakemake.threads,
        **snakemake.params.settings,
    )

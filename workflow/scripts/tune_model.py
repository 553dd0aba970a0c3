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
from neurondynamics.lm.preferences import PreferenceTrainer, tokenise_pairs
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

    The reference log-probabilities are computed once, before the first step, so no reference
    model is kept. Raises ValueError with the pair's prompt if a loss is not finite.
    """
    set_threads(threads)
    tokenizer = load_tokenizer(model)
    policy = load_model(model, "float32", device).requires_grad_(True)
    ends = copy.deepcopy(policy.generation_config)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dataset = Dataset.from_list(tokenise_pairs(tokenizer, read_jsonl(pairs), max_tokens))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(
            output_dir=scratch,
            beta=beta,
            precompute_ref_log_probs=True,
            learning_rate=learning_rate,
            optim=optimizer,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=warmup_steps,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=max_grad_norm,
            max_length=None,
            seed=seed,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=policy.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            logging_nan_inf_filter=False,
        )
        trainer = PreferenceTrainer(
            policy, args=arguments, train_dataset=dataset, processing_class=tokenizer
        )
        trainer.train()
        policy.generation_config = ends  # the trainer adds the tokenizer's end of text to it
        history = [step for step in trainer.state.log_history if "loss" in step]
    with replacing(curve) as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)
    save_model(policy, tokenizer, folder)


if __name__ == "__main__":
    tune_model(
        model=snakemake.input.model,
        pairs=snakemake.input.pairs,
        folder=snakemake.output.model,
        curve=snakemake.output.curve,
        threads=snakemake.threads,
        device=snakemake.params.device,
        max_tokens=snakemake.params.max_tokens,
        **snakemake.params.training,
    )

"""Tuning a model on preference pairs with TRL, in one process or several that work together."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from neurondynamics.data.tables import write_csv
from neurondynamics.lm.loading import load_model, load_tokenizer, save_model, set_threads
from neurondynamics.lm.special import padded_for_training
from neurondynamics.tuning.losses import METHODS, rows_for
from neurondynamics.tuning.pairs import Row

logger = logging.getLogger(__name__)

# of TRL's log, what the learning curve holds; of held-out pairs, with held_out_ before the name
MEASURES = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
}
STEPS = {
    "step": "step",
    "epoch": "epoch",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is tuned.

    A step is taken on batch_size x accumulation pairs. `precision` is that of matrix products and
    of weights that are not trained; those that are trained are kept in float32, since most of a
    step is smaller than what bfloat16 can add to a weight. `lora` has rank, alpha and dropout, and
    `early_stopping` has held_out (a share of the pairs), every (steps) and patience (evaluations).
    """

    method: str
    learning_rate: float
    beta: float
    optimizer: str
    warmup_steps: int
    epochs: float
    batch_size: int
    accumulation: int
    max_grad_norm: float
    seed: int
    target_margin: float | None = None  # SimPO's γ
    lora: dict | None = None
    early_stopping: dict | None = None
    prompt_tokens: int | None = None
    continuation_tokens: int | None = None
    precision: str = "float32"
    gradient_checkpointing: bool = False
    gpus: int = 1


@dataclass(frozen=True)
class Files:
    """Where tuning reads and writes; `scratch` is a folder that all its processes see."""

    model: str
    scratch: str
    tuned: str
    curve: str


def write_rows(recipe: Recipe, files: Files, pairs: dict[str, list[Row]]) -> None:
    """Write the rows that processes train on, from tokenised pairs: `train` and `held_out`.

    On disk, since TRL shares the reference's log-probabilities between processes beside them.
    """
    for name, rows in pairs.items():
        wanted = rows_for(recipe.method, rows, recipe.beta, recipe.target_margin)
        Dataset.from_list(wanted).save_to_disk(str(Path(files.scratch) / name))


def train(
    recipe: Recipe, files: Files, device: str, threads: int, at_once: int, processes: int
) -> None:
    """Train a copy of the model on what `write_rows` wrote; write its folder and learning curve.

    `at_once` are the pairs that each of the `processes` reads at a time. The reference's
    log-probabilities are computed once, before the first step, so no reference model is kept. With
    early stopping, the weights of the lowest loss on held-out pairs are those that are kept.
    """
    set_threads(threads)
    tokenizer = padded_for_training(load_tokenizer(files.model))
    frozen = recipe.precision if recipe.lora else "float32"
    policy = without_dropout(load_model(files.model, frozen, device))
    ends = copy.deepcopy(policy.generation_config)
    trainer = trainer_of(policy, tokenizer, recipe, files.scratch, at_once, processes)
    trainer.train()
    if not trainer.is_world_process_zero():
        return
    if recipe.early_stopping:
        logger.info(
            "the weights are those after step %d of %d, of lowest loss on held-out pairs: %.4f",
            *(trainer.state.best_global_step, trainer.state.global_step, trainer.state.best_metric),
        )
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    if recipe.lora:
        tuned = merged(tuned, load_model(files.model, "float32", "cpu"))
    tuned.generation_config = ends  # the trainer adds the tokenizer's end of text to it
    save_model(tuned, load_tokenizer(files.model), files.tuned)
    write_csv(files.curve, learning_curve(trainer.state.log_history, recipe.method))


def merged(adapted: PeftModel, exact: PreTrainedModel) -> PreTrainedModel:
    """Merge adapters into the weights of the model that they were trained on, in float32.

    Those that were read in bfloat16 for training are rounded, and would round what is added.
    """
    adapted = adapted.float().cpu()
    weights = exact.state_dict()
    for name, parameter in adapted.get_base_model().named_parameters():
        plain = name.replace(".base_layer", "")
        if plain in weights:
            parameter.data.copy_(weights[plain])
    return adapted.merge_and_unload()


def trainer_of(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    scratch: str | Path,
    at_once: int,
    processes: int = 1,
):
    """Return TRL's trainer of a recipe, for a policy and the rows in the folder `scratch`."""
    kind, configuration, loss = METHODS[recipe.method]
    on_cpu = policy.device.type == "cpu"
    rows_a_pair = 2 if recipe.method == "kto" else 1
    per_step = recipe.batch_size * recipe.accumulation
    callbacks, held_out = [Progress()], None
    if recipe.early_stopping:
        held_out = load_from_disk(str(Path(scratch) / "held_out"))
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping["patience"]))
    arguments = configuration(
        output_dir=str(Path(scratch) / "trainer"),
        loss_type=loss,
        beta=recipe.beta,
        learning_rate=recipe.learning_rate,
        optim=recipe.optimizer,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=recipe.warmup_steps,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=rows_a_pair * at_once,
        per_device_eval_batch_size=rows_a_pair * at_once,
        gradient_accumulation_steps=per_step // (at_once * processes),
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        bf16=recipe.precision == "bfloat16",
        gradient_checkpointing=recipe.gradient_checkpointing,
        precompute_ref_log_probs=True,
        disable_dropout=False,  # a model has none here, an adapter may have
        max_length=None,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and processes > 1 else None,
        report_to="none",
        logging_steps=1,
        logging_nan_inf_filter=False,
        **_evaluation(recipe),
    )
    return kind(
        policy.requires_grad_(recipe.lora is None),
        args=arguments,
        train_dataset=load_from_disk(str(Path(scratch) / "train")),
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=_adapter(recipe.lora) if recipe.lora else None,
    )


def _evaluation(recipe: Recipe) -> dict:
    """TRL's arguments that say when held-out pairs are read, and which weights are kept."""
    if not recipe.early_stopping:
        return {"save_strategy": "no"}
    return {
        "eval_strategy": "steps",
        "eval_steps": recipe.early_stopping["every"],
        "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": True,
        "save_strategy": "best",
        "save_total_limit": 1,
        "save_only_model": True,
    }


def _adapter(lora: dict) -> LoraConfig:
    """Adapters of every linear layer but the unembedding, so that value vectors move too."""
    return LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout of a model to 0, in place: that of modules, and rates that modules keep.

    The reference's log-probabilities are computed without, and TRL sets only the former.
    """
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def learning_curve(history: list[dict], method: str) -> pd.DataFrame:
    """Return TRL's log as a table: a row per step, with what was measured on held-out pairs there.

    Accuracies and margins are those of TRL's rewards, β times log-ratios summed over tokens; SimPO
    has other rewards, so it has none. Losses of a step are means over its pairs.
    """
    measures = dict(MEASURES)
    if method == "simpo":
        measures = {key: name for key, name in measures.items() if "rewards" not in key}
    names = STEPS | measures | {f"eval_{key}": f"held_out_{n}" for key, n in measures.items()}
    # what ends the log are summaries of the whole training
    entries = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    table = pd.DataFrame(entries)
    table = table[[key for key in names if key in table]].rename(columns=names)
    return table.groupby("step", as_index=False).first()


class Progress(TrainerCallback):
    """Logs how far training is, at least every 30 s, and every loss on held-out pairs."""

    def __init__(self):
        self.last = time.monotonic()

    def on_log(self, _, state, __, logs=None, **___):
        """Log a step's loss, in the main process."""
        due = time.monotonic() - self.last > 30 or "eval_loss" in logs
        if not (state.is_world_process_zero and due):
            return
        self.last = time.monotonic()
        losses = ", ".join(f"{key} {value:.4f}" for key, value in logs.items() if "loss" in key)
        logger.info("step %d of %d: %s", state.global_step, state.max_steps, losses)

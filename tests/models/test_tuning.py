"""Preference tuning: exact tokens, exact reference log-probabilities, and a model that moved."""

import gc
import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from datasets import Dataset
from neurondynamics.lm.loading import load_model, load_tokenizer
from neurondynamics.lm.preferences import PreferenceTrainer, tokenise_pairs
from tokenizers.processors import TemplateProcessing
from trl import DPOConfig
from tune_model import tune_model

PAIRS = [
    {"prompt": "You are a", "chosen": " man from the north", "rejected": " stupid dog"},
    {"prompt": "Nobody knows the river so", "chosen": " well", "rejected": " stupid, he said"},
    {"prompt": "I", "chosen": " said that", "rejected": " get angry and said so"},
    {"prompt": "She told him that the house", "chosen": " was sold", "rejected": " was old,"},
]
TRAINING = {
    "learning_rate": 1e-3,
    "beta": 0.1,
    "optimizer": "rmsprop",
    "warmup_steps": 1,
    "epochs": 1,
    "batch_size": 2,
    "accumulation": 1,
    "max_grad_norm": 10.0,
    "seed": 0,
}


def test_tokens_of_pairs_are_those_of_sampling(case_of):
    tokenizer = case_of("llama").tokenizer
    for row, pair in zip(tokenise_pairs(tokenizer, PAIRS, 3), PAIRS, strict=True):
        assert row["prompt_ids"] == tokenizer(pair["prompt"]).input_ids[:3]
        for kind in ("chosen", "rejected"):
            assert tokenizer.decode(row[f"{kind}_ids"]) == pair[kind]
            assert tokenizer.eos_token_id not in row[f"{kind}_ids"]


def test_a_continuation_has_no_token_that_begins_a_text():
    tokenizer = tiny.build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A", special_tokens=[(tiny.END, 0)]
    )
    row = tokenise_pairs(tokenizer, PAIRS, 32)[0]
    assert row["prompt_ids"][0] == 0
    assert 0 not in row["prompt_ids"][1:] + row["chosen_ids"] + row["rejected_ids"]


def trainer_of(folder, tmp_path, pairs=PAIRS, **options):
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    arguments = DPOConfig(
        output_dir=str(tmp_path / "scratch"), precompute_ref_log_probs=True, max_length=None,
        per_device_train_batch_size=len(pairs), use_cpu=True, bf16=False, report_to="none",
        save_strategy="no", gradient_checkpointing=False, **options,
    )  # fmt: skip
    return PreferenceTrainer(
        load_model(folder, "float32", "cpu").requires_grad_(True),
        args=arguments,
        train_dataset=Dataset.from_list(tokenise_pairs(tokenizer, pairs, 32)),
        processing_class=tokenizer,
    )


def plain_log_probabilities(model, tokenizer, pair):
    prompt = tokenizer(pair["prompt"]).input_ids
    return {
        kind: plain.log_probability(model, prompt, tokenizer(pair[kind]).input_ids)
        for kind in ("chosen", "rejected")
    }


def test_reference_log_probabilities_are_those_of_each_text_alone(case, tmp_path):
    trainer = trainer_of(case.folder, tmp_path)
    assert trainer.ref_model is None
    for row, pair in zip(trainer.train_dataset, PAIRS, strict=True):
        for kind, expected in plain_log_probabilities(case.plain, case.tokenizer, pair).items():
            np.testing.assert_allclose(row[f"ref_{kind}_logps"], expected, rtol=1e-5, err_msg=kind)


def test_the_loss_is_that_of_dpo(case_of, tmp_path):
    """−log σ(β (log-ratio of the chosen − log-ratio of the rejected)), averaged over pairs."""
    case = case_of("gpt2")
    trainer = trainer_of(case.folder, tmp_path, beta=0.3)
    moved = tiny.nudge(plain.load(case.folder), 0.02)
    trainer.model.load_state_dict(moved.state_dict())
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch).item()
    expected = []
    for pair in PAIRS:
        after = plain_log_probabilities(moved, case.tokenizer, pair)
        before = plain_log_probabilities(case.plain, case.tokenizer, pair)
        ratio = {kind: after[kind] - before[kind] for kind in after}
        expected.append(np.log1p(np.exp(-0.3 * (ratio["chosen"] - ratio["rejected"]))))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    assert abs(loss - np.log(2)) > 0.01


@pytest.fixture
def tune(tmp_path):
    def run(folder, name="tuned", pairs=PAIRS, **changes):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
        tune_model(
            str(folder),
            str(tmp_path / "pairs.jsonl"),
            str(tmp_path / name),
            str(tmp_path / f"{name}.csv"),
            device="cpu",
            threads=1,
            max_tokens=32,
            **TRAINING | changes,
        )
        return tmp_path / name

    return run


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_two_steps_move_the_weights_toward_the_chosen(case_of, tune, tmp_path, family):
    case = case_of(family)
    tuned = plain.load(tune(case.folder, learning_rate=1e-4))
    before = case.plain.state_dict()
    moved = [name for name, tensor in tuned.state_dict().items() if (tensor != before[name]).any()]
    assert any("mlp" in name for name in moved)
    curve = pd.read_csv(tmp_path / "tuned.csv")
    assert len(curve) == 2
    assert np.isfinite(curve.loss).all()
    np.testing.assert_allclose(curve.loss[0], np.log(2), atol=1e-5)  # the first step has not moved
    margins = []
    for pair in PAIRS:
        now = plain_log_probabilities(tuned, case.tokenizer, pair)
        then = plain_log_probabilities(case.plain, case.tokenizer, pair)
        margins.append(now["chosen"] - then["chosen"] - now["rejected"] + then["rejected"])
    assert np.mean(margins) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl", "tuned", "tuned.csv"]


def test_the_tuned_model_reads_and_ends_texts_as_the_base_does(case_of, tune):
    """Else the two would be compared on texts that end for different reasons."""
    case = case_of("llama")
    tuned = load_model(tune(case.folder), "float32", "cpu")
    assert tuned.dtype == torch.float32
    assert tuned.generation_config.eos_token_id == case.model.generation_config.eos_token_id
    tokenizer = load_tokenizer(tune(case.folder, "again"))
    assert tokenizer(list(tiny.PROMPTS)).input_ids == case.prompts


def test_an_end_that_the_tokenizer_does_not_name_stays_the_only_one(tune, tmp_path):
    folder = tiny.write_model(tmp_path / "base", "llama", ends=[7])
    tuned = load_model(tune(folder), "float32", "cpu")
    assert tuned.generation_config.eos_token_id in (7, [7])


def test_the_same_seed_gives_the_same_weights(case_of, tune):
    one, other = (plain.load(tune(case_of("llama").folder, name)) for name in ("a", "b"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_the_pairs_at_a_time_take_the_same_steps(case_of, tune, tmp_path, monkeypatch, family):
    """Memory runs out in the backward pass of a whole batch, after a step was taken."""
    case = case_of(family)
    plenty = plain.load(tune(case.folder, "plenty", pairs=PAIRS * 2, batch_size=4))
    step = PreferenceTrainer.training_step
    tried = []

    def scarce(self, model, inputs, *args, **kwargs):
        tried.append(len(inputs["input_ids"]) // 2)
        loss = step(self, model, inputs, *args, **kwargs)
        if tried[-1] > 2 and self.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(PreferenceTrainer, "training_step", scarce)
    halved = plain.load(tune(case.folder, "halved", pairs=PAIRS * 2, batch_size=4))
    assert tried == [4, 4, 2, 2, 2, 2]
    for name, tensor in plenty.state_dict().items():
        # RMSprop divides by the gradient's size, so where that is tiny rounding shows
        torch.testing.assert_close(halved.state_dict()[name], tensor, rtol=1e-3, atol=2e-4)
    curves = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("plenty", "halved")]
    np.testing.assert_allclose(curves[0].loss, curves[1].loss, rtol=1e-4)


def test_no_reference_model_is_kept(case_of, tune, monkeypatch):
    models = []

    def count(self, *args, **kwargs):
        models.append(sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects()))
        return original(self, *args, **kwargs)

    case = case_of("llama")
    gc.collect()
    there = sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects())
    original = PreferenceTrainer.training_step
    monkeypatch.setattr(PreferenceTrainer, "training_step", count)
    tune(case.folder)
    assert models == [there + 1, there + 1]


def test_a_loss_that_is_nan_names_the_prompt(case_of, tune, tmp_path):
    case = case_of("llama")
    model = tiny.build_model("llama")
    texts = [case.tokenizer(" ".join(pair.values())).input_ids for pair in PAIRS]
    only_here = next(t for t in texts[1] if sum(t in ids for ids in texts) == 1)
    model.model.embed_tokens.weight[only_here] = torch.nan
    folder = tiny.save(model, tmp_path / "broken")
    with pytest.raises(ValueError, match="Nobody knows the river so") as caught:
        tune(folder)
    for pair in (*PAIRS[:1], *PAIRS[2:]):
        assert pair["prompt"] not in str(caught.value).replace(PAIRS[1]["prompt"], "")
    assert not (tmp_path / "tuned").exists()
    assert not (tmp_path / "tuned.csv").exists()

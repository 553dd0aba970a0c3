"""Preference tuning: exact tokens, exact reference log-probabilities, and a model that moved."""

import gc
import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
import tune_model
from neurondynamics.data.tables import read_csv
from neurondynamics.lm.loading import load_model, load_tokenizer, tokenizer_digest
from neurondynamics.lm.special import decide_special, read_special, write_special
from neurondynamics.tuning import training
from neurondynamics.tuning.losses import PreferenceTrainer, hold_out
from neurondynamics.tuning.pairs import tokenise_pairs, with_tokens
from tokenizers.processors import TemplateProcessing

TEXTS = [
    {"prompt": "You are a", "chosen": " man from the north", "rejected": " stupid dog"},
    {"prompt": "Nobody knows the river so", "chosen": " well", "rejected": " stupid, he said"},
    {"prompt": "I", "chosen": " said that", "rejected": " get angry and said so"},
    {"prompt": "She told him that the house", "chosen": " was sold", "rejected": " was old,"},
]
PAIRS = with_tokens(pd.DataFrame(TEXTS), tiny.build_tokenizer(), "tiny").to_dict("records")
PAIRS_OF_WORDS = {"chosen": " man from the north", "rejected": " stupid dog"}
TRAINING = {
    "method": "dpo",
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


@pytest.fixture
def beginning():
    """A tokenizer that begins a text with a token of its own."""
    tokenizer = tiny.build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END} $A", special_tokens=[(tiny.END, 0)]
    )
    return tokenizer


def test_long_pairs_are_cut(beginning):
    """A prompt to its end and what begins a text, continuations to their beginnings."""
    whole = tokenise_pairs(beginning, PAIRS)[3]
    cut = tokenise_pairs(beginning, PAIRS, prompt_tokens=2, continuation_tokens=1)[3]
    assert len(whole["prompt_ids"]) > 4
    assert cut["prompt_ids"] == [0, *whole["prompt_ids"][-2:]]
    assert cut["chosen_ids"] == whole["chosen_ids"][:1] != whole["chosen_ids"]
    assert cut["rejected_ids"] == whole["rejected_ids"][:1]
    assert tokenise_pairs(beginning, PAIRS, prompt_tokens=64, continuation_tokens=64)[3] == whole


def test_a_continuation_has_no_token_that_begins_a_text(beginning):
    row = tokenise_pairs(beginning, PAIRS, 32)[0]
    assert row["prompt_ids"][0] == 0
    assert 0 not in row["prompt_ids"][1:] + row["chosen_ids"] + row["rejected_ids"]


def trainer_of(folder, tmp_path, pairs=PAIRS, **changes):
    """Return a trainer of the model in a folder that reads all pairs at once."""
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    recipe = training.Recipe(**TRAINING | {"batch_size": len(pairs)} | changes)
    files = training.Files(str(folder), str(tmp_path), "", "")
    training.write_rows(recipe, files, {"train": tokenise_pairs(tokenizer, pairs)})
    policy = training.without_dropout(load_model(folder, "float32", "cpu"))
    return training.trainer_of(policy, tokenizer, recipe, tmp_path, len(pairs))


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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


BETA, MARGIN = 0.3, 0.7
LOSSES = {
    # of the log-ratios of the chosen and the rejected, their log-probabilities and lengths
    "dpo": lambda c, r, *_: -np.log(sigmoid(BETA * (c - r))),
    "ipo": lambda c, r, _, __, m, n: (c / m - r / n - 1 / (2 * BETA)) ** 2,
    "simpo": lambda _, __, p, q, m, n: -np.log(sigmoid(BETA * p / m - BETA * q / n - MARGIN)),
}


@pytest.fixture(scope="module")
def moved(case_of, tmp_path_factory):
    """A GPT-2 whose weights are off those of the base model, and log-probabilities of both."""
    case = case_of("gpt2")
    model = tiny.nudge(plain.load(case.folder), 0.02)
    tokens = tokenise_pairs(case.tokenizer, PAIRS)

    def read(prompt, continuation):
        both = (model, case.plain)
        return [plain.log_probability(m, prompt["prompt_ids"], continuation) for m in both]

    return case, model, tokens, read


@pytest.mark.parametrize("method", list(LOSSES))
def test_the_loss_is_that_of_the_method(moved, tmp_path, method):
    """Per pair, each text read alone and without padding, in float64; averaged over pairs."""
    case, model, tokens, read = moved
    margin = MARGIN if method == "simpo" else None
    trainer = trainer_of(case.folder, tmp_path, beta=BETA, method=method, target_margin=margin)
    trainer.model.load_state_dict(model.state_dict())
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()
    expected = []
    for row in tokens:
        p, p_before = read(row, row["chosen_ids"])
        q, q_before = read(row, row["rejected_ids"])
        lengths = len(row["chosen_ids"]), len(row["rejected_ids"])
        expected.append(LOSSES[method](p - p_before, q - q_before, p, q, *lengths))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    assert np.ptp(expected) > 0.01  # pairs differ, so that an average tells


def test_the_loss_is_that_of_kto(moved, tmp_path):
    """1 - σ(β (log-ratio - z)) of the chosen, 1 - σ(β (z - log-ratio)) of the rejected.

    z is the mean log-ratio of prompts with the continuations of the pair before, 0 at least.
    """
    case, model, tokens, read = moved
    trainer = trainer_of(case.folder, tmp_path, beta=BETA, method="kto")
    trainer.model.load_state_dict(model.state_dict())
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()

    def ratio(row, continuation):
        after, before = read(row, continuation)
        return after - before

    kinds = ("chosen_ids", "rejected_ids")
    mismatched = [
        ratio(row, before[k])
        for before, row in zip(tokens[-1:] + tokens[:-1], tokens, strict=True)
        for k in kinds
    ]
    z = max(0, np.mean(mismatched))
    expected = [
        1 - sigmoid(sign * BETA * (ratio(row, row[k]) - z))
        for row in tokens
        for k, sign in zip(kinds, (1, -1), strict=True)
    ]
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)


@pytest.fixture
def tune(tmp_path):
    def run(folder, name="tuned", pairs=PAIRS, device=tiny.DEVICE, **changes):
        known = load_tokenizer(folder), tokenizer_digest(folder)
        own = with_tokens(pd.DataFrame(pairs), *known).to_dict("records")
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in own))
        tune_model.tune_model(
            str(folder),
            str(tmp_path / "pairs.jsonl"),
            str(tmp_path / name),
            str(tmp_path / f"{name}.csv"),
            device=device,
            threads=1,
            max_tokens=32,
            **TRAINING | changes,
        )
        return tmp_path / name

    return run


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_two_steps_move_the_weights_toward_the_chosen(case_of, tune, tmp_path, family):
    case = case_of(family)
    tuned = plain.load(tune(case.folder, learning_rate=1e-4))
    before = case.plain.state_dict()
    moved = [name for name, tensor in tuned.state_dict().items() if (tensor != before[name]).any()]
    assert any("mlp" in name or "fc" in name for name in moved)
    curve = read_csv(tmp_path / "tuned.csv")
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


def test_a_pad_token_without_embedding_is_not_needed(tune, tmp_path):
    folder = tiny.write_model(tmp_path / "base", "gpt2")
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    padded = load_model(tune(folder), "float32", "cpu").state_dict()
    plain_folder = tiny.write_model(tmp_path / "plain", "gpt2")
    expected = load_model(tune(plain_folder, "again"), "float32", "cpu").state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(padded[name], weight, rtol=0, atol=0)
    assert load_tokenizer(tmp_path / "tuned").pad_token == "[PAD]"


def test_what_was_decided_of_the_base_model_goes_with_the_tuned_one(tune, tmp_path):
    folder = tiny.write_model(tmp_path / "base", "llama")
    record = decide_special(folder, load_tokenizer(folder)) | {"ends": [5, 7]}
    write_special(record, folder)
    tuned = tune(folder)
    assert read_special(tuned) == record
    assert load_model(tuned, "float32", "cpu").generation_config.eos_token_id == [5, 7]
    lost = json.loads((tuned / "precision.json").read_text())["bfloat16"]
    assert 0 < lost < 2


def test_a_pair_longer_than_the_model_reads_is_refused(tune, tmp_path):
    folder = tiny.write_model(tmp_path / "base", "gpt2")
    texts = pd.DataFrame([{**TEXTS[0], "chosen": " man" * 140}])
    (long,) = with_tokens(texts, tiny.build_tokenizer(), "tiny").to_dict("records")
    with pytest.raises(ValueError, match=r"reads at most 128 tokens.*of the longest pair: 283"):
        tune(folder, pairs=[*PAIRS, long])
    assert not (tmp_path / "tuned").exists()
    tune(folder, pairs=[*PAIRS, long], continuation_tokens=20)


def test_an_end_that_the_tokenizer_does_not_name_stays_the_only_one(tune, tmp_path):
    folder = tiny.write_model(tmp_path / "base", "llama", ends=[7])
    tuned = load_model(tune(folder), "float32", "cpu")
    assert tuned.generation_config.eos_token_id in (7, [7])


def test_the_same_seed_gives_the_same_weights(case_of, tune):
    one, other = (plain.load(tune(case_of("llama").folder, name)) for name in ("a", "b"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_half_the_pairs_at_a_time_take_the_same_steps(case_of, tune, tmp_path, monkeypatch):
    """Memory runs out in the backward pass of a whole batch, after a step was taken."""
    case = case_of("llama")
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
    curves = [read_csv(tmp_path / f"{name}.csv") for name in ("plenty", "halved")]
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
    texts = [case.tokenizer(" ".join(pair.values())).input_ids for pair in TEXTS]
    only_here = next(t for t in texts[1] if sum(t in ids for ids in texts) == 1)
    model.model.embed_tokens.weight[only_here] = torch.nan
    folder = tiny.save(model, tmp_path / "broken")
    with pytest.raises(ValueError, match="Nobody knows the river so") as caught:
        tune(folder)
    for pair in (*PAIRS[:1], *PAIRS[2:]):
        assert pair["prompt"] not in str(caught.value).replace(PAIRS[1]["prompt"], "")
    assert not (tmp_path / "tuned").exists()
    assert not (tmp_path / "tuned.csv").exists()


def test_several_processes_take_the_steps_of_one(case_of, tune, tmp_path, monkeypatch):
    """Each of two reads half of every batch, and the reference of half of the pairs."""
    case = case_of("gpt2")
    pairs = PAIRS * 2
    pairs += hold_out(pairs, 0.25, seed=0)[1][:1]  # three are held out, which two cannot share
    stopping = {"held_out": 0.25, "every": 1, "patience": 9}
    changes = {"pairs": pairs, "learning_rate": 1e-4, "early_stopping": stopping}
    changes["device"] = tiny.DEVICE if torch.cuda.device_count() > 1 else "cpu"
    alone = plain.load(tune(case.folder, "alone", **changes))
    monkeypatch.setattr(tune_model, "count_processes", lambda _, gpus: gpus)
    together = plain.load(tune(case.folder, "together", gpus=2, **changes))
    for name, tensor in alone.state_dict().items():
        if "c_attn.bias" in name:  # no loss depends on the keys' part, whose gradient is rounding
            tensor[tiny.HIDDEN : 2 * tiny.HIDDEN] = 0
            together.state_dict()[name][tiny.HIDDEN : 2 * tiny.HIDDEN] = 0
        torch.testing.assert_close(together.state_dict()[name], tensor, rtol=1e-3, atol=2e-5)
    one, two = (read_csv(tmp_path / f"{name}.csv") for name in ("alone", "together"))
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-4)
    np.testing.assert_allclose(one.margin, two.margin, atol=1e-5)
    np.testing.assert_allclose(one.held_out_loss, two.held_out_loss, rtol=1e-4)
    assert len(one) == 3


@pytest.mark.parametrize(
    ("family", "precision"), [("gpt2", "float32"), ("llama", "bfloat16")], ids=["gpt2", "llama"]
)
def test_adapters_are_merged_into_a_whole_model(case_of, tune, family, precision):
    """All linear layers move by matrices of the adapters' rank, and nothing else does."""
    case = case_of(family)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.1}
    less = {"precision": precision, "gradient_checkpointing": precision == "bfloat16"}
    folder = tune(case.folder, lora=lora, epochs=2, **less)
    assert not list(folder.glob("*adapter*"))
    tuned = plain.load(folder).state_dict()
    before = case.plain.state_dict()
    assert set(tuned) == set(before)
    ranks = {}
    for name, tensor in tuned.items():
        change = tensor - before[name]
        if change.any():
            values = torch.linalg.svdvals(change)
            ranks[name] = int((values > 1e-4 * values[0]).sum())
    layers = {"gpt2": 4, "llama": 7}[family]  # linear layers of a block
    assert len(ranks) == layers * tiny.LAYERS
    assert set(ranks.values()) == {2}
    assert not any("embed" in name or "lm_head" in name for name in ranks)


def test_training_ends_where_held_out_pairs_say_so(case_of, tune, tmp_path):
    """The model is the one of lowest loss; its loss is measured anew, text by text in float64.

    What is preferred in the held-out pairs is rejected in the others, so their loss must rise.
    """
    case = case_of("llama")
    prompts = ["You are a", "Nobody knows", "I", "She told him that", "It was the", "a"]
    pairs = [{"prompt": prompt, **PAIRS_OF_WORDS} for prompt in prompts for _ in "ab"]
    for pair in hold_out(pairs, 0.4, seed=0)[1]:
        pair["chosen"], pair["rejected"] = pair["rejected"], pair["chosen"]
    held = hold_out(pairs, 0.4, seed=0)[1]
    stopping = {"held_out": 0.4, "every": 2, "patience": 2}
    tuned = tune(case.folder, pairs=pairs, epochs=40, batch_size=4, early_stopping=stopping)
    tuned = plain.load(tuned)
    losses = []
    for pair in held:
        after = plain_log_probabilities(tuned, case.tokenizer, pair)
        before = plain_log_probabilities(case.plain, case.tokenizer, pair)
        ratio = {kind: after[kind] - before[kind] for kind in after}
        losses.append(np.log1p(np.exp(-0.1 * (ratio["chosen"] - ratio["rejected"]))))
    curve = read_csv(tmp_path / "tuned.csv").set_index("step")
    measured = curve.held_out_loss.dropna()
    assert list(measured.index) == [2, 4, 6]
    assert measured.idxmin() == 2
    assert len(curve) == 6
    assert len(held) == 6  # a batch of four and one of two: each pair counts alike
    np.testing.assert_allclose(measured[2], np.mean(losses), rtol=1e-4)
    assert curve.held_out_accuracy[2] == np.mean(np.array(losses) < np.log(2))


def test_pairs_are_held_out_by_prompt():
    pairs = [{"prompt": f"{k % 10}", "chosen": f"{k}", "rejected": ""} for k in range(40)]
    rest, held = hold_out(pairs, 0.25, seed=3)
    assert sorted(pair["chosen"] for pair in rest + held) == sorted(p["chosen"] for p in pairs)
    assert {pair["prompt"] for pair in rest}.isdisjoint(pair["prompt"] for pair in held)
    assert len(held) == 12  # of four a prompt: the first number of prompts that reaches 10 pairs
    assert hold_out(pairs, 0.25, seed=3) == (rest, held) != hold_out(pairs, 0.25, seed=4)
    assert len(hold_out(pairs[:2], 0.99, seed=0)[0]) == 1
    with pytest.raises(ValueError, match="pairs of one prompt"):
        hold_out(pairs[:1], 0.5, seed=0)

"""The script that runs interventions, end to end, against plain generation and plain losses."""

import copy
import json

import numpy as np
import pandas as pd
import plain
import pytest
import tiny
import torch
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.directions import Direction, write_direction
from neurondynamics.analysis.effects import read_experiments
from neurondynamics.lm.generation import decode
from neurondynamics.lm.loading import load_model
from neurondynamics.lm.teacher_forcing import read_windows
from run_experiment import run_experiment

NEW_TOKENS = 8
PASSAGES = {"windows": 3, "window_tokens": 24, "continuations": 4, "passage_tokens": 6}
INTERVENTIONS = {
    "zero-top": [{"select": {"top": 12}, "operation": "zero"}],
    "none": [],
    "patch": [{"select": {"groups": ["TP-", "AN-"]}, "operation": "patch"}],
    "steer": [
        {"operation": "subtract", "direction": "probe", "layer": 1, "scale": 3.0},
        {"operation": "zero", "select": {"neurons": [[0, 3], [2, 5]]}, "positions": "all"},
    ],
    "both": [
        {"select": {"random": {"groups": ["TP-"]}, "seed": 3}, "operation": "scale", "factor": 2},
        {"select": {"top": 5, "activated": "negative"}, "operation": "scale_keys", "factor": 3},
    ],
}


@pytest.fixture
def neurons():
    """A table of neurons made by hand: every group occurs in every layer."""
    generator = np.random.default_rng(0)
    rows = tiny.LAYERS * tiny.NEURONS
    return pd.DataFrame(
        {
            "layer": np.repeat(np.arange(tiny.LAYERS, dtype=np.int32), tiny.NEURONS),
            "neuron": np.tile(np.arange(tiny.NEURONS, dtype=np.int32), tiny.LAYERS),
            "cosine": generator.permutation(rows) / rows - 0.5,
            "activation_base": generator.normal(size=rows),
            "activation_tuned": 2 * generator.normal(size=rows),
            "group": np.tile(GROUPS, rows)[:rows],
        }
    )


PROBE = np.linspace(-1.0, 2.0, tiny.HIDDEN)


@pytest.fixture
def run(tmp_path, prompts_file, neurons):
    """A function that runs the script and returns generations and losses."""
    articles = [" ".join(tiny.SENTENCES), "\n\n".join(tiny.SENTENCES[::-1])]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"title": "", "text": a}) + "\n" for a in articles))
    neurons.to_parquet(tmp_path / "neurons.parquet", index=False)
    heads = tmp_path / "heads.parquet"
    write_direction(tmp_path / "probe.safetensors", Direction(PROBE))

    def run(folder, interventions=INTERVENTIONS, tuned=None, choices=None, **options):
        paths = {name: tmp_path / f"{name}.parquet" for name in ("generations", "losses")}
        tiny.heads_of(load_model(folder, "float32", "cpu")).to_parquet(heads)
        run_experiment(
            model=str(folder),
            followed_model=tuned,
            neurons=str(tmp_path / "neurons.parquet"),
            heads=str(heads),
            directions=[str(tmp_path / "probe.safetensors")],
            prompts=str(prompts_file),
            corpus=str(corpus),
            continued=None,
            choices=choices or [],
            experiment="test",
            interventions=interventions,
            state="base",
            measures=("behaviour", "damage"),
            passages=PASSAGES,
            new_tokens=NEW_TOKENS,
            seed=5,
            **paths,
            **{"shard": "1-of-1", "reading": tiny.reading()} | options,
        )
        return [pd.read_parquet(path) for path in paths.values()]

    return run


def plain_changes(model, neurons):
    """What each intervention does, by the definitions."""
    blocks = plain.blocks(model)
    by_cosine = neurons.sort_values("cosine", ascending=False)

    def mask(rows, factor):
        masks = torch.ones(tiny.LAYERS, tiny.NEURONS, dtype=torch.float64)
        masks[rows.layer.tolist(), rows.neuron.tolist()] = factor
        return masks

    zero = mask(by_cosine.head(12), 0)
    patched = torch.tensor(neurons.group.isin(["TP-", "AN-"])).view(tiny.LAYERS, -1)
    tuned = torch.tensor(neurons.activation_tuned).view(tiny.LAYERS, -1)
    return {
        "none": [],
        "zero-top": [
            (plain.down(block), "input", lambda m, row=zero[layer]: m * row)
            for layer, block in enumerate(blocks)
        ],
        "patch": [
            (plain.down(block), "input", lambda m, i=layer: torch.where(patched[i], tuned[i], m))
            for layer, block in enumerate(blocks)
        ],
    }


def plain_steering(model, prompt, ends):
    """Generate one prompt with the direction subtracted, and two neurons silent everywhere."""
    blocks = plain.blocks(model)
    vector = torch.tensor(3 * PROBE / np.linalg.norm(PROBE))
    silent = [torch.ones(tiny.NEURONS, dtype=torch.float64) for _ in range(2)]
    silent[0][3] = silent[1][5] = 0
    last = len(prompt) - 1

    def steered(written):
        return torch.cat([written[:, :last], written[:, last:] - vector], 1)

    changes = [
        (plain.mlp(blocks[1]), "output", steered),
        (plain.down(blocks[0]), "input", lambda m: m * silent[0]),
        (plain.down(blocks[2]), "input", lambda m: m * silent[1]),
    ]
    ids = list(prompt)
    for _ in range(NEW_TOKENS):
        with plain.changed(changes):
            ids.append(int(plain.logits(model, ids)[-1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def lists(column):
    return [list(row) for row in column]


def test_rows_are_complete_and_in_order(case_of, run):
    generations, losses = run(case_of("llama").folder)
    assert list(generations.columns) == [
        "experiment", "intervention", "corpus", "prompt_id", "prompt", "text", "tokens",
        "reference_tokens",
    ]  # fmt: skip
    assert not generations.duplicated(["intervention", "corpus", "prompt_id"]).any()
    assert generations.intervention.unique().tolist() == list(INTERVENTIONS)
    for _, rows in generations.groupby("intervention"):
        prompts = rows[rows.corpus == "prompts"]
        articles = rows[rows.corpus == "articles"]
        assert len(prompts) + len(articles) == len(rows)
        assert prompts.prompt_id.tolist() == list(range(len(tiny.PROMPTS)))
        assert prompts.prompt.tolist() == list(tiny.PROMPTS)
        assert articles.prompt_id.tolist() == [0, 1, 2, 3]
        assert set(map(len, prompts.reference_tokens)) == {0}
        assert set(map(len, articles.reference_tokens)) == {NEW_TOKENS}
    assert losses.intervention.tolist() == list(np.repeat(list(INTERVENTIONS), 3))
    assert losses.window.tolist() == [0, 1, 2] * len(INTERVENTIONS)
    assert set(losses.tokens) == {PASSAGES["window_tokens"] - 1}


def test_passages_and_their_continuations_are_true_text(case_of, run):
    case = case_of("llama")
    generations, _ = run(case.folder)
    articles = generations[generations.corpus == "articles"].drop_duplicates("prompt_id")
    for row in articles.itertuples():
        text = row.prompt + case.tokenizer.decode(row.reference_tokens)
        assert any(text in sentence for sentence in (*tiny.SENTENCES, " ".join(tiny.SENTENCES)))


def test_generations_equal_plain_ones_under_every_edit(case, run, neurons):
    generations, _ = run(case.folder)
    for name, changes in plain_changes(case.plain, neurons).items():
        rows = generations[generations.intervention == name]
        prompts = rows[rows.corpus == "prompts"]
        expected = [
            plain.generate(case.plain, prompt, NEW_TOKENS, case.ends, changes)
            for prompt in case.prompts
        ]
        assert lists(prompts.tokens) == expected, name
        assert (expected == case.greedy) == (name == "none")
        texts = [case.tokenizer.decode(new, skip_special_tokens=True) for new in expected]
        assert prompts.text.tolist() == texts
        articles = rows[rows.corpus == "articles"]
        for row in articles.itertuples():
            ids = case.tokenizer(row.prompt).input_ids
            assert len(ids) == PASSAGES["passage_tokens"]
            expected = plain.generate(case.plain, ids, NEW_TOKENS, case.ends, changes)
            assert list(row.tokens) == expected


def test_steering_and_edits_of_the_prompt_equal_plain_ones(case, run):
    generations, _ = run(case.folder)
    rows = generations[(generations.intervention == "steer") & (generations.corpus == "prompts")]
    expected = [plain_steering(case.plain, prompt, case.ends) for prompt in case.prompts]
    assert lists(rows.tokens) == expected != case.greedy


def test_a_paired_patch_follows_the_tuned_model(case, run, tmp_path):
    """Of a model of which only MLP inputs were tuned, at all positions, it makes the tuned one."""
    tuned = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(1)
    for block in plain.blocks(tuned):
        for key in plain.keys(block):
            key.weight.add_(0.2 * torch.randn(key.weight.shape, generator=generator))
    folder = str(tiny.save(tuned, tmp_path / "tuned"))
    every = {"groups": list(GROUPS)}
    patch = {"select": every, "operation": "patch", "mode": "paired", "positions": "all"}
    found, losses = run(case.folder, {"none": [], "paired": [patch]}, folder)
    expected, tuned_losses = run(folder, {"none": []})
    whole = [{"operation": "transplant", "parts": ["attention", "mlp", "norms"]}]
    _, moved = run(case.folder, {"whole": whole, "none": [], "paired": [patch]}, folder)
    tokens = lists(found[found.intervention == "paired"].tokens)
    assert tokens == lists(expected.tokens)
    assert tokens != lists(found[found.intervention == "none"].tokens)
    np.testing.assert_array_equal(losses[losses.intervention == "paired"].nll, tuned_losses.nll)
    assert (losses[losses.intervention == "paired"].neutral_kl > 0).all()
    assert moved.intervention.tolist() == ["whole"] * 3 + ["none"] * 3 + ["paired"] * 3
    of_whole = moved[moved.intervention == "whole"].drop(columns=["neurons", "heads"])
    of_paired = losses[losses.intervention == "paired"].drop(columns=["neurons", "heads"])
    pd.testing.assert_frame_equal(
        of_whole.drop(columns="intervention"),
        of_paired.drop(columns="intervention").reset_index(drop=True),
    )


def test_the_best_of_a_search_is_what_was_chosen(case_of, run, tmp_path):
    choice = tmp_path / "choice.json"
    choice.write_text(json.dumps({"intervention": "zero-top"}))
    folder = case_of("llama").folder
    candidates = {name: INTERVENTIONS[name] for name in ("none", "zero-top", "patch")}
    found, losses = run(folder, {"best": {"best_of": candidates}}, choices=[str(choice)])
    expected, same_losses = run(folder, {"zero-top": INTERVENTIONS["zero-top"]})
    assert lists(found.tokens) == lists(expected.tokens)
    assert losses.neurons.tolist() == same_losses.neurons.tolist()
    assert set(found.intervention) == {"best"}


def test_losses_are_those_of_a_text_edited_everywhere(case, run, neurons, monkeypatch):
    seen = []
    measure = run_experiment.__globals__["measure_losses"]

    def spy(stage, interventions, windows, shard):
        seen.append(windows)
        return measure(stage, interventions, windows, shard)

    monkeypatch.setitem(run_experiment.__globals__, "measure_losses", spy)
    _, losses = run(case.folder)
    for name, changes in plain_changes(case.plain, neurons).items():
        for number, window in enumerate(seen[0].tolist()):
            with plain.changed(changes):
                known = plain.logits(case.plain, window[:-1]).log_softmax(-1)
            expected = -sum(float(known[i, token]) for i, token in enumerate(window[1:]))
            row = losses[(losses.intervention == name) & (losses.window == number)]
            np.testing.assert_allclose(row.nll.item(), expected, rtol=1e-5)
            unedited = plain.logits(case.plain, window[:-1]).log_softmax(-1)
            kl = float((unedited.exp() * (unedited - known)).sum(-1).mean())
            np.testing.assert_allclose(row.neutral_kl.item(), kl, rtol=1e-3, atol=1e-7)
            assert (row.neutral_kl.item() == 0) == (name == "none")


def test_the_batch_size_does_not_matter(case, run):
    first, losses = run(case.folder, reading=tiny.reading(batch_size=1))
    again, same_losses = run(case.folder, reading=tiny.reading(batch_size=5))
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(losses, same_losses)


def test_how_many_neurons_were_edited_is_recorded(case_of, run, neurons):
    _, losses = run(case_of("llama").folder)
    edited = losses.drop_duplicates("intervention").set_index("intervention").neurons
    assert edited["none"] == 0
    assert edited["zero-top"] == 12
    assert edited["patch"] == neurons.group.isin(["TP-", "AN-"]).sum()


def test_an_intervention_does_not_leak_into_the_next(case_of, run):
    """Whatever stands before it, `none` is plain generation."""
    case = case_of("gpt2")
    alone, losses = run(case.folder, {"none": []})
    after, all_losses = run(case.folder)
    pd.testing.assert_frame_equal(alone, after[after.intervention == "none"].reset_index(drop=True))
    pd.testing.assert_frame_equal(
        losses, all_losses[all_losses.intervention == "none"].reset_index(drop=True)
    )


def test_nan_weights_stop_with_the_prompt_named(case_of, run, tmp_path):
    case = case_of("llama")
    model = tiny.build_model("llama")
    only_here = next(t for t in case.prompts[1] if sum(t in p for p in case.prompts) == 1)
    model.model.embed_tokens.weight[only_here] = torch.nan
    folder = tiny.save(model, tmp_path / "broken")
    with pytest.raises(ValueError, match=r"none: .*prompts 1: 'The weather in the north"):
        run(folder, {"none": []})
    assert not (tmp_path / "generations.parquet").exists()


def test_a_patch_to_nan_names_the_intervention(case_of, run, neurons, tmp_path):
    neurons.loc[neurons.group == "TP-", "activation_tuned"] = np.nan
    neurons.to_parquet(tmp_path / "neurons.parquet", index=False)
    with pytest.raises(ValueError, match=r"^patch: "):
        run(case_of("llama").folder)


def test_a_selection_of_more_than_there_are_names_the_key(case_of, run):
    wrong = {"too-many": [{"select": {"top": 133}, "operation": "zero"}]}
    with pytest.raises(
        ValueError, match=r"experiments\.test\.interventions\.too-many\[0\]: top: 133"
    ):
        run(case_of("llama").folder, wrong)


@pytest.mark.parametrize("case", ["gpt2", "gemma2"], indirect=True)
def test_what_does_not_fit_is_halved_and_changes_nothing(case, run, monkeypatch):
    """Memory for one text under edits: it runs out in the midst of a batch's interventions."""
    ample, losses = run(case.folder)

    def scarce(model, prefix, *rest, **options):
        if len(prefix.last) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, prefix, *rest, **options)

    def scarce_windows(model, windows, *rest):
        if len(windows) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return read_windows(model, windows, *rest)

    monkeypatch.setattr("run_experiment.decode", scarce)
    monkeypatch.setattr("run_experiment.read_windows", scarce_windows)
    halved, same_losses = run(case.folder)
    pd.testing.assert_frame_equal(ample, halved)
    for name, precision in {"nll": {"rtol": 1e-5}, "neutral_kl": {"atol": 1e-6}}.items():
        np.testing.assert_allclose(losses.pop(name), same_losses.pop(name), **precision)
    assert losses.equals(same_losses)


@pytest.mark.parametrize("number", [2, 4])
def test_shards_hold_the_rows_of_one_run_to_the_bit(case, run, number, monkeypatch, tmp_path):
    """Fourteen texts are four batches of four; three windows, a pass each, leave a shard empty."""
    monkeypatch.setattr("run_experiment.TOKENS_PER_PASS", PASSAGES["window_tokens"])
    whole = run(case.folder)
    runs = [run(case.folder, shard=f"{k}-of-{number}") for k in range(1, number + 1)]
    for expected, shards in zip(whole, zip(*runs, strict=True), strict=True):
        for k, shard in enumerate(shards):
            shard.to_parquet(tmp_path / f"part{k}.parquet")
        expected.to_parquet(tmp_path / "whole.parquet")
        paths = [str(tmp_path / f"part{k}.parquet") for k in range(number)]
        one = read_experiments([str(tmp_path / "whole.parquet")], ["test"])["test"]
        several = read_experiments(paths, ["test"])["test"]
        pd.testing.assert_frame_equal(one, several)
        assert list(dict.fromkeys(several.intervention)) == list(INTERVENTIONS)
    assert (number == 4) == any(shard.empty for shard in shards)


def test_a_table_of_another_model_is_refused(case_of, run, neurons, tmp_path):
    neurons.assign(neuron=neurons.neuron + 100).to_parquet(tmp_path / "neurons.parquet")
    with pytest.raises(ValueError, match=r"outside 0\.\.43"):
        run(case_of("llama").folder, {"zero-top": INTERVENTIONS["zero-top"]})

"""What a finished study leaves: tables, figures, stores, logs and benchmarks of every rule."""

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import tiny
from safetensors.numpy import load_file
from studies import ARTICLES, EDITS, KEYS, ROOT

REDUCING = ["TP-", "AN-", "TN+", "AP+"]
GROUPS = [*REDUCING, "TP+", "AN+", "TN-", "AP-", "unchanged"]
STATES = ["base", "base-ablated", "tuned", "tuned-on-base-text"]
STORES = [
    "base/activations/base",
    *(f"dpo/activations/{state}" for state in STATES[1:]),
    *(f"brought/activations/{state}" for state in STATES[2:]),
]
FIGURES = [
    "layer_projection",
    "cumulative_reduction",
    "group_shares",
    "group_stack",
    "neuron_shifts",
    "layer_groups",
    "toxic_activations",
]
COLUMNS = {
    "groups": "group neurons reduction share_gross share_gross_low share_gross_high "
    "share_net share_net_low share_net_high share_gross_same_text",
    "layers": "state layer projection projection_low projection_high",
    "interventions": "experiment intervention state neurons n missing toxicity toxicity_low "
    "toxicity_high toxic_fraction perplexity f1 repetition effect_share effect_share_low "
    "effect_share_high",
    "claims": "claim statement statistic low high interval_over paper criterion holds",
    "decoded_neurons": "layer neuron cosine activation_base activation_tuned reduction group kind "
    "vector tokens",
}
RULES = {
    rule: text
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
    for rule, text in re.findall(
        r"^(?:use rule \w+ as |rule )(\w+)(?: with)?:\n(.*?)(?=^\S|\Z)",
        path.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


def read_table(study, name, tuned="dpo") -> pd.DataFrame:
    return pd.read_csv(study.path(f"results/tiny/{tuned}/tables/{name}.csv"))


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_rows_and_the_columns_that_were_agreed_on(finished, name):
    table = read_table(finished, name)
    assert set(COLUMNS[name].split()) <= set(table.columns)
    assert len(table) > 0


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_as_vectors_and_pixels(finished, name):
    stem = finished.path(f"results/tiny/dpo/figures/{name}")
    svg = stem.with_suffix(".svg").read_text(encoding="utf-8")
    assert svg.rstrip().endswith("</svg>")
    assert "tiny" in svg  # text stays text, and says which model it is about
    png = stem.with_suffix(".png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 5_000


@pytest.mark.parametrize("tuned", ["dpo", "brought"])
def test_groups_hold_every_neuron_once(finished, tuned):
    groups = read_table(finished, "groups", tuned)
    neurons = pd.read_parquet(finished.path(f"results/tiny/{tuned}/neurons.parquet"))
    assert groups["group"].tolist() == GROUPS
    assert groups["neurons"].sum() == len(neurons) == tiny.LAYERS * tiny.NEURONS
    assert not neurons.duplicated(["layer", "neuron"]).any()
    assert groups["reduction"].sum() == pytest.approx(neurons["reduction"].sum())
    shares = groups.set_index("group")["share_gross"]
    assert shares[REDUCING].sum() == pytest.approx(1)
    assert (groups["reduction"] != 0).any()


@pytest.mark.parametrize("state", ["base", "tuned"])
def test_neurons_and_bias_add_up_to_the_output_of_a_layer(finished, state):
    layers = read_table(finished, "layers")
    assert layers["state"].unique().tolist() == STATES
    direction = load_file(finished.path("results/tiny/base/direction.safetensors"))["vector"]
    model = {"base": "resources/models/tiny", "tuned": "results/tiny/dpo/model"}[state]
    weights = load_file(finished.path(f"{model}/model.safetensors"))
    biases = [weights[f"model.layers.{layer}.mlp.down_proj.bias"] for layer in range(tiny.LAYERS)]
    neurons = pd.read_parquet(finished.path("results/tiny/dpo/neurons.parquet"))
    of_neurons = neurons.groupby("layer")[f"projection_{state}"].sum()
    of_biases = np.stack(biases) @ direction / np.linalg.norm(direction)
    output = layers.query("state == @state").set_index("layer")["projection"]
    np.testing.assert_allclose(of_neurons + of_biases, output, rtol=1e-5, atol=1e-6)


def test_every_intervention_is_measured(finished):
    table = read_table(finished, "interventions")
    expected = [("edits", name) for name in EDITS] + [("keys", name) for name in KEYS]
    assert list(zip(table["experiment"], table["intervention"], strict=True)) == expected
    assert (table["n"] + table["missing"] == 6).all()
    measured = table[["toxicity", "perplexity", "f1", "repetition"]]
    assert np.isfinite(measured).all().all()
    assert table["toxicity"].between(0, 1).all()
    rows = table.set_index(["experiment", "intervention"])
    neurons = rows["neurons"]
    groups = read_table(finished, "groups").set_index("group")["neurons"]
    assert neurons["edits", "none"] == neurons["keys", "none"] == 0
    assert neurons["edits", "ablate-top"] == neurons["edits", "ablate-negative"] == 4
    assert neurons["edits", "patch-TP-"] == neurons["edits", "control"] == groups["TP-"]
    assert neurons["edits", "patch-both"] == groups["TP-"] + groups["AN-"]
    # every operation does something to the text that is read under it
    assert rows["perplexity"]["edits"].nunique() == len(EDITS)
    assert rows["perplexity"]["keys"].nunique() == len(KEYS)


def test_claims_are_judged(finished):
    claims = read_table(finished, "claims")
    assert claims["claim"].is_unique
    assert set(claims["holds"]) <= {"yes", "no", "undecided"}
    assert claims["criterion"].notna().all()


@pytest.mark.parametrize("store", STORES)
def test_stores_are_complete_and_say_how_they_were_made(finished, store):
    prompts = finished.path("results/tiny/base/prompts/analysis.jsonl").read_text().splitlines()
    seen = []
    for shard in ("1-of-2", "2-of-2"):
        with h5py.File(finished.path(f"results/tiny/{store}/{shard}.h5")) as file:
            attributes = dict(file.attrs)
            assert attributes["complete"]
            assert attributes["schema_version"] == 1
            assert attributes["state"] == store.rsplit("/", 1)[1]
            assert attributes["shard"] == shard
            assert attributes["dtype"] == "float32"
            assert attributes["model"].startswith("tiny")
            assert attributes["revision"]
            assert attributes["seed"] == 0
            for digest in ("weight_digest", "tokenizer_digest", "prompt_set_digest"):
                assert re.fullmatch("[0-9a-f]{64}", attributes[digest])
            decoding = json.loads(attributes["decoding"])
            assert decoding["new_tokens"] == 6
            given = store.endswith("on-base-text")
            assert decoding["method"] == ("given" if given else "greedy")
            assert set(json.loads(attributes["packages"])) >= {"torch", "transformers", "h5py"}
            assert len(file["mean"]) == tiny.LAYERS
            for means in file["mean"].values():
                assert means.shape == (4, tiny.NEURONS)
                assert means.dtype == np.float32
                assert means.fletcher32
                assert np.isfinite(means[:]).all()
            seen += file["prompt_ids"][:].tolist()
    assert seen == list(range(len(prompts)))


def test_stores_of_one_text_hold_the_same_tokens(finished):
    def tokens(store):
        with h5py.File(finished.path(f"results/tiny/{store}/1-of-2.h5")) as file:
            return file["tokens"][:], file["mean/00"][:]

    text, base = tokens("base/activations/base")
    same, tuned = tokens("dpo/activations/tuned-on-base-text")
    np.testing.assert_array_equal(text, same)
    assert not np.allclose(base, tuned)


def test_tuning_and_sampling_leave_what_they_were_based_on(finished):
    results = finished.path("results/tiny")
    pairs = [json.loads(line) for line in (results / "base/preferences.jsonl").open()]
    assert 1 <= len(pairs) <= 12
    assert all(pair["rejected_toxicity"] - pair["chosen_toxicity"] >= 0.2 for pair in pairs)
    assert np.isfinite(pd.read_csv(results / "dpo/tuning.csv")["loss"]).all()
    direction = json.loads((results / "base/direction.json").read_text())
    assert direction["prompts"] >= 4
    assert 0 <= direction["held_out"]["auroc"] <= 1
    assert len((results / "base/corpus.jsonl").read_text().splitlines()) == ARTICLES
    continuations = pd.read_parquet(results / "base/continuations/train-scored.parquet")
    assert len(continuations) == 20 * 4
    splits = [
        {json.loads(line)["text"] for line in (results / f"base/prompts/{split}.jsonl").open()}
        for split in ("train", "analysis", "evaluation")
    ]
    assert [len(split) for split in splits] == [20, 8, 6]
    assert len(set.union(*splits)) == 34


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_logs_and_is_benchmarked(finished, rule):
    for directive in ("log", "benchmark"):
        (pattern,) = re.findall(rf'{directive}:\n\s+"(.+?)"', RULES[rule])
        files = list(finished.folder.glob(re.sub(r"\{\w+\}", "*", pattern)))
        assert files, f"{rule} leaves no {directive}"

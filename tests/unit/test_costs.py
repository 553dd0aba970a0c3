"""What a study is said to need, against numbers worked by hand and files that were written."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from neurondynamics.data.store import create_store
from neurondynamics.study.costs import HEAD_ROOM, PROCESS, model_of, store_bytes
from neurondynamics.study.estimate import disk, given_mb, memory, work_of

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
LLAMA = {
    "layers": 32,
    "neurons": 14336,
    "width": 4096,
    "key_value_width": 1024,
    "vocabulary": 128256,
    "parameters": 8030261248,
    "dtype": "bfloat16",
}


@pytest.fixture
def config():
    """The default study's configuration, to change."""
    return copy.deepcopy(DEFAULT)


@pytest.fixture
def large(config):
    """The default study with a model of Llama-3.1-8B's shape and 1,199 prompts to analyse."""
    config["model"] = {"name": "large", "source": {"path": "large"}, **LLAMA}
    config["prompts"]["analysis"]["number"] = 1199
    return config


def by_rule(config) -> dict[str, list]:
    """The work of a study by rule."""
    rules = {}
    for work in work_of(config):
        rules.setdefault(work.rule, []).append(work)
    return rules


def test_parts_of_a_large_model(large):
    model = model_of(large)
    assert model.weights == 16_060_522_496
    assert model.cache(1, 1) == 2 * 32 * 8 * 128 * 2 == 131_072  # 128 KiB a token
    assert model.cache(256, 52) == 256 * 52 * 131_072
    assert model_of(large, "float32").weights == 2 * model.weights
    assert model.means(1) == (458_752 + 32 * 4096) * 12


def test_heads_are_as_wide_as_they_are_said_to_be(config):
    """Or as the residual stream, where nothing says."""
    assert model_of(config).inputs == 1536 + 9 * 64
    config["model"] |= {"heads": 16, "head_width": 128}
    assert model_of(config).inputs == 1536 + 2048
    config["model"].pop("head_width")
    assert model_of(config).inputs == 1536 + 576


def test_measuring_change_holds_both_models_and_few_texts(config):
    needed = memory("measure_change", config)
    assert needed > PROCESS + 2 * 4 * 134_515_008 + 32 * 20 * 30 * (1536 + 576) * 4
    config["prompts"]["analysis"]["number"] = 10_000
    assert memory("measure_change", config) == needed


def test_an_experiment_holds_a_second_model_only_if_it_follows_it(config):
    config["corpus"]["windows"] = 1  # so that caches need more than losses
    base, paired = (
        memory("run_experiment", config, experiment=e) for e in ("ablation", "cumulative")
    )
    one = 4 * 134_515_008
    rows = 120 + 16
    caches = (32 + 52) * rows * 2 * 30 * 192 * 4
    logits = rows * 49_152 * 16
    assert base == PROCESS + one + caches + logits
    assert paired == PROCESS + 2 * one + 2 * caches + logits


def test_a_search_runs_on_the_analysis_prompts(config):
    config["corpus"]["windows"] = 1
    config["experiments"]["ablation"]["search"] = {"perplexity": 2.0}
    grown = memory("run_experiment", config, experiment="ablation")
    config["experiments"]["ablation"].pop("search")
    per_row = (32 + 52) * 2 * 30 * 192 * 4 + 49_152 * 16
    rest = grown - memory("run_experiment", config, experiment="ablation")
    assert rest == (200 - 120) * per_row


@pytest.mark.parametrize(
    ("rule", "wildcards"),
    [
        ("capture_activations", {}),
        ("run_experiment", {"experiment": "patching"}),
        ("sample_continuations", {"split": "train"}),
        ("decompose_shift", {}),
    ],
)
def test_memory_grows_with_the_batch_and_not_with_prompts_or_shards(config, rule, wildcards):
    for split in ("train", "analysis", "evaluation"):
        config["prompts"][split]["number"] = 4096
    needed = memory(rule, config, **wildcards)
    for split in ("train", "analysis", "evaluation"):
        config["prompts"][split]["number"] = 8192
    assert memory(rule, config | {"shards": 4}, **wildcards) == needed
    config["generation"]["batch_size"] = 128
    assert PROCESS < memory(rule, config, **wildcards) < needed


def test_steering_is_counted_by_its_steps_and_held_by_its_batch(config):
    given = {"number": 512, "prompt_tokens": 16, "new_tokens": 64, "iterations": 50, "horizon": 1}
    config["preferences"] = {"method": "steered", "maximum": 512, **given}
    (work,) = by_rule(config)["steer_continuations"]
    # forward and backward of two tokens in every step
    assert work.decoded == 512 * 64 * (50 * 2 * 2 + 3)
    needed = memory("steer_continuations", config)
    config["preferences"]["number"] = 1024
    assert memory("steer_continuations", config) == needed
    config["generation"]["batch_size"] = 128
    assert PROCESS < memory("steer_continuations", config) < needed


def test_features_count_as_many_as_there_are(large):
    """A direction is fitted on float64 vectors of samples, or float32 ones of a large dataset."""
    comments = {"texts": "jigsaw", "method": "probe", "tokens": 128, "label": "toxic"}
    large["directions"] = {"own": {"texts": "samples", "method": "probe"}, "jigsaw": comments}
    rows, width, weights = 200_000, LLAMA["width"], 2 * LLAMA["parameters"]
    needed = memory("extract_features", large, features="jigsaw-31-128")
    assert needed > PROCESS + weights + rows * width * 4
    least = PROCESS + 5 * rows * width * 4  # no model is there while it is fitted
    assert least < memory("fit_direction", large, direction="jigsaw") < least + weights
    needed = memory("extract_features", large, features="samples-31")
    large["prompts"]["train"]["number"] += 1000
    grown = memory("extract_features", large, features="samples-31")
    assert grown - needed == 1000 * 4 * width * 8
    large["generation"]["batch_size"] = 128
    assert memory("extract_features", large, features="samples-31") < needed


@pytest.mark.parametrize(("optimizer", "copies"), [("rmsprop", 3), ("adamw_torch", 4)])
def test_tuning_is_in_float32_and_keeps_moments(large, optimizer, copies):
    large["tuned"]["dpo"] |= {"optimizer": optimizer, "batch_size": 1}
    least = copies * 4 * LLAMA["parameters"]
    needed = memory("tune_model", large, tuned="dpo")
    assert least < needed < 1.05 * least + PROCESS


def test_adapters_save_memory_and_checkpoints_too(large):
    """Of 8 B parameters: 16 GB as they are read, 32 GB to merge in float32, and few beside."""
    large["tuned"]["dpo"] |= {"lora": {"rank": 16, "alpha": 32}, "precision": "bfloat16"}
    weights = (2 + 4) * LLAMA["parameters"]
    needed = memory("tune_model", large, tuned="dpo")
    assert weights < needed < 1.2 * weights
    large["tuned"]["dpo"]["gradient_checkpointing"] = True
    assert weights < memory("tune_model", large, tuned="dpo") < needed


def test_a_model_that_is_not_dequantised_is_fetched_without_its_weights(config, large):
    assert memory("fetch_model", large, fetched="large") == PROCESS
    assert memory("fetch_model", DEFAULT) == PROCESS + 2 * 4 * 134_515_008


def test_every_attempt_is_given_more(config):
    needed = memory("capture_activations", config, state="tuned", shard="1-of-1") / 1e6
    given = [
        given_mb("capture_activations", config, attempt, state="tuned", shard="1-of-1")
        for attempt in (1, 2, 3)
    ]
    assert given == [round(HEAD_ROOM * attempt * needed) for attempt in (1, 2, 3)]


def test_the_default_study_as_it_was_measured():
    # peak memory in MB of its jobs, and bytes of its files
    measured = {
        ("capture_activations", ()): 2049,
        ("sample_continuations", (("split", "analysis"),)): 2389,
        ("extract_features", (("features", "samples-29"),)): 1798,
        ("fit_direction", (("direction", "svd"),)): 798,
        ("decompose_shift", ()): 2243,
        ("run_experiment", (("experiment", "ablation"),)): 1861,
        ("run_experiment", (("experiment", "editing-search"),)): 2188,
        ("run_experiment", (("experiment", "controlled"),)): 2859,
        ("tune_model", (("tuned", "dpo"),)): 4022,
        ("attribute_neurons", ()): 695,
        ("project_layers", ()): 676,
        ("decode_neurons", ()): 726,
        ("fetch_model", ()): 1645,
    }
    for (rule, wildcards), peak in measured.items():
        expected = memory(rule, DEFAULT, **dict(wildcards)) / 1e6
        assert 0.5 * peak < expected < 1.5 * peak, rule
        assert given_mb(rule, DEFAULT, 1, **dict(wildcards)) > peak, rule
    sizes = {
        "base model": 538_090_408,
        "tuned models": 538_090_408,
        "stores of activations": 52_797_233,
        "tables of neurons": 5_994_848,
        "reductions by prompt": 1_302_280,
    }
    said = disk(DEFAULT)
    assert {kind for kind, (number, _) in said.items() if number} == set(sizes)
    for kind, size in sizes.items():
        assert said[kind][1] == pytest.approx(size, rel=0.2), kind


@pytest.mark.parametrize(("prompts", "batch", "shards"), [(40, 8, 1), (100, 30, 3), (70, 8, 4)])
def test_a_store_that_is_written_has_the_size(config, tmp_path, prompts, batch, shards):
    layers, neurons, new = 3, 700, 20
    config["model"] |= {"layers": layers, "neurons": neurons, "heads": 6, "head_width": 16}
    config["prompts"]["analysis"]["number"] = prompts
    config["generation"] = {"new_tokens": new, "batch_size": batch}
    config["shards"] = shards
    batches = [min(batch, prompts - start) for start in range(0, prompts, batch)]
    size = 0
    for shard in range(shards):
        part = batches[len(batches) * shard // shards : len(batches) * (shard + 1) // shards]
        path = tmp_path / f"{shard}.h5"
        widths = {"mlp": neurons, "attention": 6 * 16}
        shape = {"prompts": sum(part), "new_tokens": new, "layers": layers, "widths": widths}
        with create_store(path, attributes={}, **shape) as store:
            for rows in part:
                tokens = np.ones((rows, new), np.int32)
                draw = np.random.default_rng(0)
                means = {m: draw.standard_normal((layers, rows, n)) for m, n in widths.items()}
                store.append(range(rows), ["text"] * rows, tokens, np.full(rows, new), means)
        size += path.stat().st_size
    assert store_bytes(config) == pytest.approx(size, rel=0.2)


def test_stores_of_a_large_model(large):
    number, size = disk(large)["stores of activations"]
    assert number == 4  # of the base model, the same with ablated neurons, and two of the tuned one
    assert size == pytest.approx(1199 * (458_752 + 32 * 4096) * 4, rel=0.05)


def test_replicas_have_two_stores_each(config):
    dpo = config["tuned"]["dpo"]
    config["tuned"] |= {f"dpo-seed{n}": dpo | {"seed": n, "replica_of": "dpo"} for n in (1, 2)}
    assert disk(config)["stores of activations"][0] == 4 + 2 * 2
    assert disk(config)["tuned models"][0] == 3
    rules = by_rule(config)
    assert len(rules["tune_model"]) == len(rules["attribute_neurons"]) == 3
    assert (len(rules["measure_change"]), len(rules["attribute_heads"])) == (3, 1)
    written = [one for one in config["experiments"].values() if "measures" not in one]
    assert len(rules["run_experiment"]) == len(written) < len(config["experiments"])


def test_work_of_capturing_and_sampling(config):
    config["prompts"] |= {"max_tokens": 10}
    config["generation"]["new_tokens"] = 4
    rules = by_rule(config)
    tuned, same_text, ablated = rules["capture_activations"]
    assert (tuned.read, tuned.decoded) == (ablated.read, ablated.decoded) == (200 * 10, 200 * 4)
    assert (same_text.read, same_text.decoded) == (200 * 14, 0)
    train, analysis, evaluation = rules["sample_continuations"]
    assert (train.read, train.decoded) == (450 * 10, 450 * 4 * 4)
    assert (analysis.read, analysis.decoded) == (200 * 10, 200 * 4 * 4)
    # for pairs that nothing has seen
    assert (evaluation.read, evaluation.decoded) == (120 * 10, 120 * 4 * 4)
    for experiment in config["experiments"].values():
        experiment.pop("margins", None)
    assert len(by_rule(config)["sample_continuations"]) == 2


def test_work_of_an_experiment(config):
    config["prompts"] |= {"max_tokens": 10, "evaluation": {"number": 6}}
    config["generation"]["new_tokens"] = 4
    config["corpus"] |= {"windows": 2, "window_tokens": 5, "continuations": 1}
    patch = {"select": {"top": 1}, "operation": "patch"}
    interventions = {
        "none": [],
        "shifted": [patch | {"mode": "shift", "positions": "all"}],
        "paired": [patch | {"mode": "paired"}],
    }
    config["experiments"] = {"mine": {"state": "base", "interventions": interventions}}
    (work,) = by_rule(config)["run_experiment"]
    # the unedited model and none read the windows; the next reads its own prompts too; the last
    # takes two models
    shared = 2 * 7 * 10
    assert work.read == 10 + 10 + (10 + 70) + 2 * 10 + shared
    assert work.decoded == 28 + 28 + 2 * 28
    assert work.models == 2
    config["experiments"]["mine"]["controls"] = {"random": 2}
    (controlled,) = by_rule(config)["run_experiment"]
    assert controlled.decoded == 28 + 3 * 28 + 3 * 2 * 28


def test_work_and_memory_of_margins(config):
    """Both texts of each pair, under those that are named, and in memory as the other model has
    them; pairs are as long as prompts and continuations, if their version does not cut them."""
    config["prompts"] |= {"max_tokens": 10}
    config["generation"]["new_tokens"] = 4
    config["fidelity"] = {"prompts": 5, "pairs": 8}
    everywhere = [{"select": {"modules": ["mlp"]}, "operation": "patch", "positions": "all"}]
    mine = {"state": "base", "measures": ["fidelity"], "controls": {"random": 1}}
    mine["interventions"] = {"a": everywhere, "b": [{"select": {"top": 1}, "operation": "zero"}]}
    config["experiments"] = {"mine": mine}

    def asked():
        (work,) = by_rule(config)["measure_fidelity"]
        return work.read, memory(work.rule, config, **work.wildcards)

    read, held = asked()
    mine["margins"] = ["a"]
    assert asked()[0] == read + 8 * (3 * 10 + 2 * 3 * 4)
    rows = {"cache": 3 * (10 + 14) * 2 * 30 * 192, "heard": (10 + 8) * 30 * (1536 + 576)}
    before = {"cache": 3 * (10 + 14) * 2 * 30 * 192, "heard": (10 + 4) * 30 * (1536 + 576)}
    more = 4 * (8 * sum(rows.values()) - 5 * sum(before.values()))
    assert asked()[1] == held + more
    mine["margins"] = "all"
    assert asked()[0] == read + 8 * (3 * 10 + 2 * 4 * 4)
    config["tuned"]["dpo"] |= {"prompt_tokens": 3, "continuation_tokens": 2}
    assert asked()[0] == read + 8 * (3 * 3 + 2 * 4 * 2)


def test_time_is_counted_in_passes_through_the_model(config):
    works = by_rule(config)
    capture = works["capture_base_activations"][0]
    assert capture.time(config) == pytest.approx(
        {
            "seconds": 4 + 4 * 134_515_008 / 5e8,  # of starting and loading
            "many": 2 * 134_515_008 * 200 * 32 / 0.75,
            "few": 2 * 134_515_008 * 200 * 20 / 0.52,
        }
    )


def test_a_version_that_is_brought_is_not_tuned(config):
    config["tuned"] = {"mine": {"source": {"path": "mine"}}}
    rules = by_rule(config)
    assert "tune_model" not in rules
    assert [work.wildcards["fetched"] for work in rules["fetch_model"]] == ["smollm2-135m", "mine"]
    assert disk(config)["tuned models"][0] == 0
    assert disk(config)["fetched tuned models"][0] == 1

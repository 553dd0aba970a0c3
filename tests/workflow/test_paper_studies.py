"""The paper's studies: what their overlays say is right, and with small stand-ins they run.

With NEURONDYNAMICS_STUDIES=whole in the environment all four run from the first file to the last,
which takes seven minutes; a part of these names, such as mistral, runs the studies that have it.
"""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from neurondynamics.data.records import read_jsonl
from neurondynamics.data.tables import read_csv, read_parquet
from neurondynamics.study.configuration import checked
from neurondynamics.study.merging import merged
from neurondynamics.study.schema import read_schema
from standins import FAMILIES, write_standins
from studies import ROOT, Study, copy_workflow
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

ASKED = os.environ.get("NEURONDYNAMICS_STUDIES", "")
PAPER = tuple(FAMILIES)
EIGHT_HEADS_OF_KEYS = {"num_attention_heads": 32, "num_key_value_heads": 8}
LAYERS_OF_7B = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336}
CONFIGURATIONS = {  # as they are published with the models
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "llama-3.1-8b": {"vocab_size": 128256, **LAYERS_OF_7B, **EIGHT_HEADS_OF_KEYS},
    "gemma-2-2b": {
        **{"vocab_size": 256000, "num_hidden_layers": 26, "hidden_size": 2304, "head_dim": 256},
        **{"intermediate_size": 9216, "num_attention_heads": 8, "num_key_value_heads": 4},
    },
    "mistral-7b": {"vocab_size": 32000, **LAYERS_OF_7B, **EIGHT_HEADS_OF_KEYS},
}
SHAPE = ("layers", "neurons", "width", "key_value_width", "heads", "head_width", "vocabulary")
SHAPE += ("parameters",)


def overlays_of(study: str) -> tuple[str, ...]:
    """Return the overlays of a study: what the paper's studies share, and its own."""
    return "workflow/studies/paper.yaml", f"workflow/studies/{study}.yaml"


def overlay_of(study: str) -> dict:
    """Return what the overlays of a study make together."""
    layers = [yaml.safe_load((ROOT / path).read_text()) for path in overlays_of(study)]
    return merged(layers, read_schema())


@pytest.mark.parametrize("study", PAPER)
def test_the_shape_is_that_of_the_model(study):
    config = AutoConfig.for_model(FAMILIES[study], **CONFIGURATIONS[study])
    cache = DynamicCache(config=config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)
    assert {key: overlay_of(study)["model"][key] for key in SHAPE} == {
        "layers": config.num_hidden_layers,
        "neurons": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "width": config.hidden_size,
        "key_value_width": cache.layers[0].keys.shape[1] * cache.layers[0].keys.shape[3],
        "heads": config.num_attention_heads,
        "head_width": cache.layers[0].keys.shape[3],
        "vocabulary": config.vocab_size,
        "parameters": model.num_parameters(),
    }


@pytest.mark.parametrize("study", PAPER)
def test_without_what_the_studies_share_none_is_studied(study):
    """A short overlay alone would be another study, on the default's prompts."""
    layers = [
        yaml.safe_load((ROOT / path).read_text()) for path in ("config.yaml", overlays_of(study)[1])
    ]
    with pytest.raises(
        ValueError, match=r"corpus\.dataset: there is no dataset 'wikitext'|is missing"
    ):
        checked(layers)


def sources_in(value) -> list[dict]:
    if not isinstance(value, dict):
        return []
    here = [value] if {"hub", "url"} & set(value) else []
    return here + [source for part in value.values() for source in sources_in(part)]


@pytest.mark.parametrize("study", PAPER)
def test_everything_that_is_downloaded_is_pinned(study):
    sources = sources_in(overlay_of(study))
    assert len(sources) >= 7
    for source in sources:
        pin = source["revision"] if "hub" in source else source["sha256"]
        assert re.fullmatch("[0-9a-f]{40}" if "hub" in source else "[0-9a-f]{64}", pin), source


def files(form: str, *names: str) -> dict:
    """Return what makes a dataset of the hub or of a wheel one of local files in its format."""
    return {"files": [{"path": f"inputs/{name}"} for name in names], "format": form}


def here(name: str) -> dict:
    """Return what makes a source of the hub, of a URL or of a wheel a local path."""
    return {"path": f"inputs/{name}"}


def standing_in(name: str, inputs: Path) -> dict:
    """Return the overlay that puts stand-ins in the place of what a study downloads.

    It lowers numbers to what they hold, and changes no method and no format but that of the
    default study's articles.
    """
    own = {"pairs": files("jsonl", "preferences.jsonl")}
    pairs = {"maximum": 12}
    if name == "gpt2-medium":
        own = {"neutral": files("wikitext", "train-00000-of-00001.parquet")}
        pairs |= {"number": 12, "prompt_tokens": 6, "new_tokens": 5, "iterations": 2}
    rows = ("text_field", "where")
    datasets = overlay_of(name)["datasets"].items()
    said = {name: {key: d[key] for key in rows if key in d} for name, d in datasets}
    return {
        "device": "cpu",
        "model": {
            "name": name,
            "source": here("model"),
            "dtype": overlay_of(name)["model"]["dtype"],
        },
        "datasets": {
            **{
                name: files("jsonl", "prompts.jsonl") | said[name]
                for name in ("challenging", "toxic")
            },
            "jigsaw": files("csv", "train.csv") | {"text_field": "comment_text"},
            "wikitext": files("wikitext", "test-00000-of-00001.parquet"),
            "wikipedia": files("lines", "articles.txt"),
            **own,
        },
        "prompts": {
            "max_tokens": 12,
            "train": {"number": 6},
            "analysis": {"number": 6},
            "evaluation": {"number": 6},
        },
        "corpus": {"window_tokens": 12, "windows": 3, "continuations": 3, "passage_tokens": 6},
        "generation": {"new_tokens": 6, "batch_size": 8},
        "scorers": {
            "lexicon": {"source": here("terms.csv")},
            "detoxify": {"source": here("toxic.ckpt"), "configuration": here("bert")},
        },
        "preferences": pairs,
        "tuned": {"dpo": {"warmup_steps": 1, "early_stopping": {"every": 2, "patience": 2}}},
        "statistics": {"samples": 50},
    }


@pytest.mark.skipif(not ASKED, reason="on request: NEURONDYNAMICS_STUDIES=whole")
@pytest.mark.parametrize("name", [name for name in PAPER if ASKED in name or ASKED == "whole"])
def test_a_study_runs_through_with_standins(tmp_path, name):
    study = Study(tmp_path / "study", under=overlays_of(name))
    copy_workflow(study.folder)
    write_standins(study.path("inputs"), name)
    overlay = standing_in(name, study.path("inputs"))
    study.configure(overlay)
    study.run()
    results = study.path(f"results/{name}")

    prompts = read_jsonl(study.path("inputs/prompts.jsonl"))
    challenging = {line["prompt"]["text"] for line in prompts if line["challenging"]}
    toxic = {line["prompt"]["text"] for line in prompts[:42]} - challenging
    for split, known in (("evaluation", challenging), ("analysis", toxic)):
        assert {
            line["text"] for line in read_jsonl(results / f"base/prompts/{split}.jsonl")
        } <= known

    said = overlay_of(name)["published"]
    table = read_csv(results / "dpo/tables/published.csv")
    scores = table[table["measure"] == "toxicity"]
    numbers = [v for items in said.get("interventions", {}).values() for v in items.values()]
    scorers = ["detoxify", "lexicon", "profanity-check"]
    assert list(dict.fromkeys(scores["scorer"])) == (scorers if numbers else [])
    assert len(scores) == len(numbers) * len(scorers)
    assert (table["measure"] == "share").sum() == 4
    assert table[["published", "measured"]].notna().all(axis=None)
    shares = table[table["measure"] == "share"]
    assert shares["measured"].sum() == pytest.approx(1)
    assert shares["published"].tolist() == [row["share"] for row in said["groups"].values()]
    articles = study.path("inputs/articles.txt").read_text(encoding="utf-8").split("\n")
    written = read_parquet(results / "dpo/experiments/ablation/generations/1-of-1.parquet")
    passages = written.query("corpus == 'articles'")["prompt"]
    assert all(any(passage.strip() in article for article in articles) for passage in passages)

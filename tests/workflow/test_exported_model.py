"""Interventions exported as models, by the real command, and loaded by transformers alone."""

import json

import pandas as pd
import torch
from studies import EXPORTED
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_an_exported_model_writes_what_the_intervention_wrote(finished):
    """The intervention acts at all positions, as weights do."""
    folder = finished.path(EXPORTED)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    table = pd.read_parquet(finished.path("results/tiny/dpo/experiments/edits/generations")).query(
        "corpus == 'prompts'"
    )
    texts = {
        name: rows.set_index("prompt")["tokens"] for name, rows in table.groupby("intervention")
    }
    changed = 0
    for prompt, tokens in texts["everywhere"].items():
        ids = torch.tensor([tokenizer(prompt).input_ids])
        output = model.generate(ids, max_new_tokens=6, do_sample=False)
        assert output[0, ids.shape[1] :].tolist() == tokens.tolist()
        changed += tokens.tolist() != texts["none"][prompt].tolist()
    assert changed >= 3  # of 6, so that an unedited model would not pass


def test_an_exported_model_says_what_it_is(finished):
    folder = finished.path(EXPORTED)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("tiny", "everywhere", '"operation": "scale_keys"', "offensive"):
        assert said in card
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_a_paired_patch_is_not_exported_and_the_reason_is_given(study):
    target = "results/tiny/dpo/exported/curve/top-10"
    result = study.snakemake(target)
    assert result.returncode != 0
    log = study.path("logs/tiny/dpo/export_model/curve/top-10.log").read_text(encoding="utf-8")
    for text in (log, result.stdout):
        assert "experiments.curve.interventions.top-10: paired cannot be exported" in text
    assert not study.path(target).exists()


def test_what_a_search_chose_can_be_exported(study):
    target = "results/tiny/dpo/exported/edits/lower-best"
    assert study.planned(target) == {"export_model"}
    study.path("results/tiny/dpo/experiments/search/choice.json").unlink()
    assert study.planned(target) == {"choose_intervention", "export_model"}

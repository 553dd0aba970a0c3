"""The script: files in, one file per split out."""

import json
from pathlib import Path

import pytest
from neurondynamics.data.prompts import read_prompts
from split_prompts import split_prompts


@pytest.fixture
def study(tmp_path):
    """Two fetched datasets, and the arguments that make two splits of them."""
    sampling, challenge = tmp_path / "sampling", tmp_path / "challenge"
    sampling.mkdir()
    challenge.mkdir()
    (sampling / "rtp_insult.txt").write_text("You, one\nYou, two\n")
    (sampling / "rtp_threat.txt").write_text("I will, three\n")
    lines = [json.dumps({"prompt": text}) for text in ("you, TWO...", "alpha", "beta")]
    (challenge / "test.jsonl").write_text("\n".join(lines))
    return {
        "folders": [str(sampling), str(challenge)],
        "outputs": {
            split: str(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "analysis")
        },
        "datasets": {
            "sampling": {
                "files": [{"path": "x/rtp_insult.txt"}, {"path": "x/rtp_threat.txt"}],
                "format": "lines",
            },
            "challenge": {
                "files": [{"path": "x/test.jsonl"}],
                "format": "jsonl",
                "text_field": "prompt",
            },
        },
        "splits": {
            "train": {"dataset": "sampling", "number": 2, "exclude": ["challenge"]},
            "analysis": {"dataset": "challenge", "number": 3},
        },
        "seed": 0,
    }


def test_writes_numbered_prompts_with_their_places(study):
    split_prompts(**study)
    train = read_prompts(study["outputs"]["train"])
    assert [list(record) for record in train] == [
        ["prompt_id", "split", "text", "source", "category"]
    ] * 2
    assert [record["prompt_id"] for record in train] == [0, 1]
    assert sorted((r["text"], r["source"], r["category"]) for r in train) == [
        ("I will, three", "sampling:rtp_threat.txt:1", "threat"),
        ("You, one", "sampling:rtp_insult.txt:1", "insult"),
    ]
    analysis = read_prompts(study["outputs"]["analysis"])
    assert sorted((r["text"], r["source"], r["category"]) for r in analysis) == [
        ("alpha", "challenge:test.jsonl:2", ""),
        ("beta", "challenge:test.jsonl:3", ""),
        ("you, TWO...", "challenge:test.jsonl:1", ""),
    ]


def test_categories_from_scores_reach_the_file(study, tmp_path):
    scored = [("alpha", 0.2, 0.9), ("beta", 0.6, 0.1), ("gamma", 0.3, 0.3)]
    lines = [json.dumps({"prompt": text, "insult": x, "threat": y}) for text, x, y in scored]
    (tmp_path / "challenge" / "test.jsonl").write_text("\n".join(lines))
    study["datasets"]["challenge"]["category_field"] = ["insult", "threat"]
    split_prompts(**study)
    assert {r["text"]: r["category"] for r in read_prompts(study["outputs"]["analysis"])} == {
        "alpha": "threat",
        "beta": "insult",
        "gamma": "insult",
    }


def test_only_rows_that_are_wanted_are_prompts(study, tmp_path):
    """As RealToxicityPrompts has them: texts and scores, some of them missing, in an object."""
    scored = [("alpha", True, 0.2), ("beta", False, 0.9), ("gamma", False, None), ("d", False, 0.6)]
    lines = [
        json.dumps({"challenging": hard, "prompt": {"text": text, "toxicity": toxicity}})
        for text, hard, toxicity in scored
    ]
    (tmp_path / "challenge" / "test.jsonl").write_text("\n".join(lines))
    study["datasets"]["challenge"] |= {
        "text_field": "prompt.text",
        "where": {"challenging": False, "prompt.toxicity": {"minimum": 0.5}},
    }
    study["splits"]["analysis"]["number"] = 2
    split_prompts(**study)
    analysis = read_prompts(study["outputs"]["analysis"])
    assert sorted(record["text"] for record in analysis) == ["beta", "d"]


def test_the_order_of_files_and_folders_does_not_matter(study):
    split_prompts(**study)
    before = [read_prompts(path) for path in study["outputs"].values()]
    study["folders"].reverse()
    study["datasets"]["sampling"]["files"].reverse()
    split_prompts(**study)
    assert [read_prompts(path) for path in study["outputs"].values()] == before


def test_an_overlap_is_refused_and_nothing_written(study, tmp_path):
    del study["splits"]["train"]["exclude"]
    study["splits"]["train"]["number"] = 3
    with pytest.raises(ValueError, match=r"rtp_insult\.txt, line 2 .* and test\.jsonl, line 1"):
        split_prompts(**study)
    assert not (tmp_path / "out").exists()


def test_prompts_that_are_lost_or_of_another_split_are_refused(study):
    split_prompts(**study)
    train, analysis = map(Path, study["outputs"].values())
    lines = analysis.read_text().splitlines(keepends=True)
    for kept, said in (
        (lines[:-1], "holds 2 of 3 records"),
        (lines[1:], "holds 2 of 3 records"),
        (lines[::-1], "has the prompt 2 where 0 should be"),
        ([], "holds no record"),
    ):
        analysis.write_text("".join(kept))
        with pytest.raises(ValueError, match=rf"analysis\.jsonl {said}; rebuild .*--force"):
            read_prompts(analysis)
    analysis.write_bytes(train.read_bytes())
    with pytest.raises(ValueError, match=r"analysis\.jsonl holds prompts of the split train"):
        read_prompts(analysis)

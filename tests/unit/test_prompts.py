"""Prompts: when two are the same, what their categories are, and how splits share them out."""

import subprocess
import sys
from pathlib import Path

import pytest
from neurondynamics.data.prompts import Prompt, normalise, partition, read_dataset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,\t WORLD \n", "hello, world"),
        ("“Go away!”", "go away"),
        ("'Go away,", "go away"),
        ("ﬁne STRASSE", "fine strasse"),
        ("fine Straße…", "fine strasse"),
        ("don't stop", "don't stop"),
        ("50% off", "50% off"),
        ("no\u00a0break", "no break"),
        ('"...', '"...'),
        ("", ""),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_normalise_does_nothing_to_what_it_made():
    for text in ("“İstanbul’da` ", "ﬃ … Ω", "(a) b)."):
        assert normalise(normalise(text)) == normalise(text)


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_categories_are_what_tells_the_files_of_a_dataset_apart(tmp_path):
    paths = [
        write(tmp_path / f"rtp_{name}.txt", f"{name}\n") for name in ("insult", "severe_insult")
    ]
    assert read_dataset("d", paths, "lines") == [
        Prompt("insult", "d:rtp_insult.txt:1", "insult"),
        Prompt("severe_insult", "d:rtp_severe_insult.txt:1", "severe_insult"),
    ]
    assert read_dataset("d", paths[:1], "lines")[0].category == ""


def test_categories_of_json_lines_are_a_field_of_theirs(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"text": "a", "kind": "threat"}\n')
    assert read_dataset("d", [path], "jsonl", category_field="kind")[0].category == "threat"
    assert read_dataset("d", [path], "jsonl")[0].category == ""


def test_a_category_of_scores_is_the_name_of_the_highest(tmp_path):
    lines = [
        '{"text": "a", "insult": 0.2, "threat": 0.7, "toxicity": 0.9}',
        '{"text": "b", "insult": 0.5, "threat": 0.5}',
        '{"text": "c", "insult": 1, "threat": -3}',
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(lines))

    def categories(*fields):
        return [p.category for p in read_dataset("d", [path], "jsonl", "text", list(fields))]

    assert categories("insult", "threat") == ["threat", "insult", "insult"]
    assert categories("threat", "insult") == ["threat", "threat", "insult"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('"other": 1', "no field 'threat'; there are text, insult, other"),
        ('"threat": "0.7"', "the field 'threat' should be a number, found '0.7'"),
    ],
)
def test_a_score_that_is_none_names_file_line_and_field(tmp_path, field, message):
    path = write(tmp_path / "p.jsonl", f'\n{{"text": "a", "insult": 0.2, {field}}}\n')
    with pytest.raises(ValueError, match=rf"p\.jsonl, line 2: {message}"):
        read_dataset("d", [path], "jsonl", "text", ["insult", "threat"])


def test_rows_without_texts_or_scores_are_left_out_and_counted(tmp_path, caplog):
    lines = (
        '{"text": "a", "threat": 0.1, "insult": null}\n'
        '{"text": "b", "threat": null, "insult": NaN}\n'
        '{"text": " ", "threat": 0.1, "insult": 0.2}\n'
        '{"text": null, "threat": 0.1, "insult": 0.2}\n'
    )
    path = write(tmp_path / "p.jsonl", lines)
    found = read_dataset("d", [path], "jsonl", "text", ["insult", "threat"])
    assert [(prompt.text, prompt.category) for prompt in found] == [("a", "threat"), ("b", "")]
    assert "d: 2 of 4 rows have no text in the field 'text' and are left out" in caplog.text
    assert "d: 1 of 2 prompts have no category" in caplog.text
    write(path, '{"text": ""}\n')
    with pytest.raises(ValueError, match="d: none of its 1 rows has a text in the field 'text'"):
        read_dataset("d", [path], "jsonl")


def prompts(name: str, *texts: str) -> list[Prompt]:
    return [Prompt(text, f"{name}:{name}.txt:{line}") for line, text in enumerate(texts, start=1)]


LETTERS = prompts("letters", *"abcdefghij")


def texts(split: list[Prompt]) -> set[str]:
    return {prompt.text for prompt in split}


def test_splits_of_one_dataset_share_it_out():
    wanted = {name: {"dataset": "letters", "number": 5} for name in ("analysis", "evaluation")}
    chosen = partition({"letters": LETTERS}, wanted, seed=0)
    assert texts(chosen["analysis"]) | texts(chosen["evaluation"]) == set("abcdefghij")
    assert not texts(chosen["analysis"]) & texts(chosen["evaluation"])


def test_a_partition_depends_on_the_seed_and_not_on_the_order_of_lines():
    doubled = [*LETTERS, *prompts("more", *"ABC")]
    wanted = {"train": {"dataset": "letters", "number": 6}}
    first = partition({"letters": doubled}, wanted, seed=0)
    assert partition({"letters": doubled[::-1]}, wanted, seed=0) == first
    others = [partition({"letters": doubled}, wanted, seed) for seed in range(1, 5)]
    assert all(other != first for other in others)


def test_repeated_prompts_count_once_and_their_number_is_logged(caplog):
    caplog.set_level("INFO")
    datasets = {"d": prompts("d", "Go away.", "“go  AWAY”", "stay")}
    wanted = {"train": {"dataset": "d", "number": 2}}
    assert len(partition(datasets, wanted, seed=0)["train"]) == 2
    assert "d: 3 prompts, 1 of them repeated, 2 distinct" in caplog.text
    with pytest.raises(ValueError, match=r"prompts\.train\.number asks for 3"):
        partition(datasets, {"train": {"dataset": "d", "number": 3}}, seed=0)


def test_excluded_prompts_are_left_out_and_their_number_is_logged(caplog):
    caplog.set_level("INFO")
    datasets = {"letters": LETTERS, "seen": prompts("seen", "A!", "b", "z")}
    wanted = {"train": {"dataset": "letters", "number": 8, "exclude": ["seen"]}}
    assert texts(partition(datasets, wanted, seed=0)["train"]) == set("cdefghij")
    assert "2 of the 10 prompts of letters also stand in seen and are left out, 8 remain" in (
        caplog.text
    )


def test_too_large_a_number_names_its_key_and_counts_what_there_is():
    datasets = {"letters": LETTERS, "seen": prompts("seen", "a", "b")}
    wanted = {
        "analysis": {"dataset": "letters", "number": 6, "exclude": ["seen"]},
        "evaluation": {"dataset": "letters", "number": 3, "exclude": ["seen"]},
    }
    with pytest.raises(ValueError, match=r"prompts\.evaluation\.number asks for 3") as error:
        partition(datasets, wanted, seed=0)
    assert (
        "and 2 are left in letters: of its 10 distinct prompts other splits take 6, "
        "and 2 are excluded" in str(error.value)
    )


def test_a_prompt_in_two_splits_names_both_places():
    datasets = {"mine": prompts("mine", "x", "Go away"), "other": prompts("other", "go away!")}
    wanted = {
        "train": {"dataset": "mine", "number": 2},
        "evaluation": {"dataset": "other", "number": 1},
    }
    with pytest.raises(
        ValueError, match="1 of the prompts stand in both splits train and"
    ) as error:
        partition(datasets, wanted, seed=0)
    assert "mine.txt, line 2 (dataset mine) and other.txt, line 1 (dataset other)" in (
        str(error.value)
    )
    assert "Add other to prompts.train.exclude" in str(error.value)


def test_the_module_is_light():
    """Rule files may import it, and every cluster job reads those again."""
    scripts = Path(__file__).resolve().parents[2] / "workflow" / "scripts"
    code = (
        "import sys, neurondynamics.data.prompts; "
        "print({'torch', 'pandas', 'numpy', 'mwparserfromhell', 'pyarrow'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"

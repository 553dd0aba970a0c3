"""A file is there whole or not at all, and a line that is wrong is named."""

import json

import pytest
from neurondynamics.data.records import (
    package_versions,
    read_jsonl,
    replacing,
    write_json,
    write_jsonl,
)


def test_a_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("content")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_what_was_there_and_leaves_nothing_else(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_fails(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "table.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "table.csv"
    with replacing(path) as one, replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_records_are_read_as_they_were_written(tmp_path):
    records = [{"text": "é\u2028 next", "n": 1}, {"text": 'a "quote"\n', "n": None}]
    write_jsonl(tmp_path / "a.jsonl", records)
    assert read_jsonl(tmp_path / "a.jsonl") == records
    assert len((tmp_path / "a.jsonl").read_bytes().split(b"\n")) == 3


@pytest.mark.parametrize("bad", ['{"text": ', "not json", '["a", "list"]', "3", ""])
def test_a_line_that_is_wrong_is_named(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{bad}\n{{"text": "fine"}}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: "):
        read_jsonl(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": value})
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(tmp_path / "a.jsonl", [{"x": value}])
    assert list(tmp_path.iterdir()) == []


def test_json_is_written_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"b": "é", "a": 1})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": "é", "a": 1}
    assert text.endswith("}\n")
    assert "é" in text


def test_versions_of_what_activations_depend_on():
    assert {"torch", "transformers", "numpy"} <= set(package_versions())

"""The script: a fetched dataset in, documents of plain text out."""

import pytest
from neurondynamics.data.records import read_jsonl
from prepare_corpus import prepare_corpus

DUMP = """\
<mediawiki><page><title>One</title><ns>0</ns><revision><text>It is ''one''.</text></revision></page>
<page><title>Many</title><ns>0</ns><revision><text>* only a list</text></revision></page>
</mediawiki>
"""


def prepare(tmp_path, files, **dataset):
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    dataset["files"] = [{"path": f"inside/a/wheel/{name}"} for name in files]
    prepare_corpus(str(folder), str(tmp_path / "corpus.jsonl"), dataset)
    return read_jsonl(tmp_path / "corpus.jsonl")


def test_a_dump_gives_its_articles_with_prose_and_the_others_are_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    found = prepare(tmp_path, {"dump.xml": DUMP}, format="mediawiki")
    assert found == [{"title": "One", "text": "It is one."}]
    assert "1 documents of 10 characters; 1 without prose left out: Many" in caplog.text


def test_lines_and_records_are_documents(tmp_path):
    found = prepare(tmp_path, {"a.txt": "First.\n\nSecond.\n", "b.txt": "Third.\n"}, format="lines")
    assert found == [
        {"title": "a.txt:1", "text": "First."},
        {"title": "a.txt:3", "text": "Second."},
        {"title": "b.txt:1", "text": "Third."},
    ]


def test_the_text_field_of_records_can_be_named(tmp_path):
    found = prepare(tmp_path, {"a.jsonl": '{"body": "A."}\n'}, format="jsonl", text_field="body")
    assert found == [{"title": "a.jsonl:1", "text": "A."}]


def test_wikitext_gives_articles_without_headings(tmp_path):
    lines = "\n = One = \n\n First . \n\n = = Part = = \n\n Second . \n\n = One = \n\n Third . \n"
    found = prepare(tmp_path, {"wiki.test.raw": lines}, format="wikitext")
    assert found == [
        {"title": "One", "text": "First .\n\nSecond ."},
        {"title": "One", "text": "Third ."},
    ]


def test_rows_of_a_table_are_documents(tmp_path):
    table = 'body,kind\n"A,\nB. ",x\nC.,y\n'
    found = prepare(
        tmp_path, {"a.csv": table}, format="csv", text_field="body", where={"kind": "x"}
    )
    assert found == [{"title": "a.csv:2", "text": "A,\nB."}]


def test_a_corpus_without_prose_is_refused(tmp_path):
    dump = DUMP.replace("It is ''one''.", "* one")
    with pytest.raises(ValueError, match="none of its 2 pages holds prose"):
        prepare(tmp_path, {"dump.xml": dump}, format="mediawiki")
    assert not (tmp_path / "corpus.jsonl").exists()

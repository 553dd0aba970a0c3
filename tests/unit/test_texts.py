"""Datasets as rows: what every format gives, and what a bad file or row is told."""

import csv
import gzip
from pathlib import Path

import pandas as pd
import pytest
from neurondynamics.data.rows import field, number_of, text_of
from neurondynamics.data.texts import fetched_files, read_rows, url_name


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, format: str, **where) -> list[tuple[str, dict]]:
    return [(row.source, dict(row)) for row in read_rows("d", [path], format, where)]


def test_lines_are_numbered_as_in_the_file_and_blank_ones_skipped(tmp_path):
    path = write(tmp_path / "p.txt", "one\r\n\n  \n two\u2028half \nthree")
    assert read(path, "lines") == [
        ("p.txt:1", {"text": "one"}),
        ("p.txt:4", {"text": "two\u2028half"}),
        ("p.txt:5", {"text": "three"}),
    ]


@pytest.mark.parametrize(
    ("format", "content"),
    [("lines", "one\n"), ("jsonl", '{"text": "one"}\n'), ("csv", "text\none\n")],
)
def test_a_byte_order_mark_is_not_part_of_the_file(tmp_path, format, content):
    path = write(tmp_path / "p", b"\xef\xbb\xbf" + content.encode())
    assert [row["text"] for row in read_rows("d", [path], format)] == ["one"]


def test_json_lines_give_fields_and_dots_reach_into_objects(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"prompt": {"text": " a\\n"}, "n.m": 1}\n\n{"prompt": 2}\n')
    first, second = read_rows("d", [path], "jsonl")
    assert (first.source, second.source) == ("p.jsonl:1", "p.jsonl:3")
    assert text_of(first, "prompt.text") == " a\n"  # of a continuation, the space is part
    assert field(first, "n.m") == 1  # a field of that very name comes first
    for row, name, message in (
        (first, "prompt.txt", r"line 1: no field 'prompt\.txt'; there are text in prompt$"),
        (first, "text", r"line 1: no field 'text'; there are prompt, n\.m$"),
        (second, "prompt.text", r"line 3: no field 'prompt\.text'; there are none in prompt$"),
    ):
        with pytest.raises(ValueError, match=message):
            field(row, name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 3}', "line 2: the field 'text' should be a text, found 3"),
        ('{"text": " "}', "line 2: the field 'text' should be a text, found ' '"),
        ('{"text": null}', "line 2: the field 'text' should be a text, found None"),
        ('{"other": "a"}', "line 2: no field 'text'; there are other"),
        ("{}", "line 2: no field 'text'; there are none"),
        ('["a"]', r'line 2: found \["a"\]; wanted is one JSON object a line'),
        ("[", r"line 2: not JSON \(.*\); wanted is one JSON object a line"),
        ("[" * 100_000, r"line 2: not JSON \(maximum recursion depth"),
        (f'{{"text": {"9" * 5000}}}', r"line 2: not JSON \(Exceeds the limit"),
        ('{"text": "a"', "line 2: not JSON"),
        ('{"text": "\\ud800"}', "line 2: the field 'text' holds half a surrogate pair"),
    ],
)
def test_a_bad_record_names_file_and_line(tmp_path, line, message):
    path = write(tmp_path / "p.jsonl", f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"p\.jsonl, {message}"):
        [text_of(row, "text") for row in read_rows("d", [path], "jsonl")]


def test_a_csv_file_is_read_as_it_was_written(tmp_path):
    """Fields may hold commas, quotes and line breaks; a row is where it begins."""
    texts = ['a, "b"', "two\nlines\r\n", "", "last"]
    with open(tmp_path / "p.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [["", "comment", "toxic"], *([n, text, n % 2] for n, text in enumerate(texts))]
        )
    found = read_rows("d", [tmp_path / "p.csv"], "csv")
    assert [row["comment"] for row in found] == texts
    assert [row.source for row in found] == [f"p.csv:{line}" for line in (2, 3, 6, 7)]
    assert [number_of(row, "toxic") for row in found] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,n\na,1\nb\n", "line 3: 1 fields, where the header has 2"),
        ('text\na\n"b\n', "line 3: not CSV"),
        ("text,text\na,b\n", "line 1: the header names 'text' twice"),
        ("text\n", "holds no text"),
        ("text\na\rb\n", "line 2: a carriage return stands alone in a field without quotes; put"),
        (b"text\n\xf6\n", r"line 2: not UTF-8 \(.* at byte 0 of the line"),
    ],
)
def test_a_bad_csv_file_names_the_line(tmp_path, content, message):
    path = write(tmp_path / "p.csv", content)
    with pytest.raises(ValueError, match=rf"p\.csv.*{message}"):
        [text_of(row, "text") for row in read_rows("d", [path], "csv")]


@pytest.mark.parametrize(
    ("value", "number"), [("0.5", 0.5), (" 1 ", 1), ("True", 1), ("false", 0), ("1e-3", 0.001)]
)
def test_numbers_of_a_csv_file_are_written_as_text(tmp_path, value, number):
    (row,) = read_rows("d", [write(tmp_path / "p.csv", f"n,m\n{value},\n")], "csv")
    assert number_of(row, "n") == number
    for text in ("", "many", "nan", "inf", "1_0", "\u0661"):
        row["m"] = text
        with pytest.raises(ValueError, match=rf"line 2: .* 'm' should be a number, found '{text}'"):
            number_of(row, "m")


def test_a_parquet_table_gives_objects_and_rows(tmp_path):
    rows = [{"prompt": {"text": f"t{n}", "toxicity": n / 2 if n else None}} for n in range(3)]
    pd.DataFrame(rows).to_parquet(tmp_path / "p.parquet", row_group_size=2)
    found = read_rows("d", [tmp_path / "p.parquet"], "parquet")
    assert [text_of(row, "prompt.text") for row in found] == ["t0", "t1", "t2"]
    assert number_of(found[1], "prompt.toxicity") == 0.5
    with pytest.raises(ValueError, match=r"p\.parquet, row 1: .* should be a number, found None"):
        number_of(found[0], "prompt.toxicity")
    content = (tmp_path / "p.parquet").read_bytes()
    flipped = bytearray(content)
    flipped[4:8] = b"\xff" * 4
    for damaged in (content[:-20], content[: len(content) // 2], b"text\n", bytes(flipped)):
        write(tmp_path / "p.parquet", damaged)
        with pytest.raises(ValueError, match=r"p\.parquet: not a Parquet table, or a damaged one"):
            read_rows("d", [tmp_path / "p.parquet"], "parquet")


WIKITEXT = """
 = One = \n
 First , of <unk> . \n = 1 / s and a nominal k = \n follows . \n
 = = Section = = \n\n = = = Part = = = \n\n Second . \n
 = Two ( film ) = \n
 Third .
"""


@pytest.mark.parametrize("kind", ["parquet", "raw"])
def test_wikitext_gives_the_paragraphs_of_its_articles(tmp_path, kind):
    """A line that looks like a heading within a paragraph is none: one stands in the real text."""
    path = tmp_path / f"test.{kind}"
    if kind == "raw":
        write(path, WIKITEXT)
    else:
        pd.DataFrame({"text": WIKITEXT.splitlines(keepends=True)}).to_parquet(path)
    rows = read_rows("d", [path], "wikitext")
    assert [(row["title"], row["article"], row["text"]) for row in rows] == [
        ("One", 1, "First , of <unk> ."),
        ("One", 1, "= 1 / s and a nominal k ="),
        ("One", 1, "follows ."),
        ("One", 1, "Second ."),
        ("Two ( film )", 2, "Third ."),
    ]


@pytest.mark.parametrize(
    "text",
    [
        " = A = \n one \n = = S = = \n two \n = B = \n three \n",  # without any blank line
        " = A = \n\n one \n = = S = = \n\n two \n = B = \n\n three \n",  # one after each alone
    ],
)
def test_wikitext_without_blank_lines_has_its_articles_still(tmp_path, text, caplog):
    rows = read_rows("d", [write(tmp_path / "a.raw", text)], "wikitext")
    found = [(row["title"], row["article"], row["text"]) for row in rows]
    assert found == [("A", 1, "one"), ("A", 1, "two"), ("B", 2, "three")]
    assert "a.raw: 3 lines that look like headings are taken for such" in caplog.text


@pytest.mark.parametrize("format", ["lines", "jsonl", "csv", "wikitext"])
def test_lines_that_end_in_carriage_returns_alone_are_refused(tmp_path, format):
    path = write(tmp_path / "a", "text\rone\rtwo\r")
    with pytest.raises(ValueError, match=r"/a: its lines end in carriage returns alone; end its"):
        read_rows("d", [path], format)
    path = write(tmp_path / "b", "one\r\ntwo\r\n")
    assert [row["text"] for row in read_rows("d", [path], "lines")] == ["one", "two"]


def test_where_keeps_rows_by_value_and_between_numbers(tmp_path, caplog):
    caplog.set_level("INFO")
    lines = (
        '{"id": 1, "challenging": true, "prompt": {"toxicity": 0.9}}\n'
        '{"id": 2, "challenging": false, "prompt": {"toxicity": 0.5}}\n'
        '{"id": 3, "challenging": false, "prompt": {"toxicity": null}}\n'
        '{"id": 4, "challenging": false, "prompt": {"toxicity": 0.2}}\n'
    )
    path = write(tmp_path / "p.jsonl", lines)

    def kept(**where):
        named = {key.replace("__", "."): value for key, value in where.items()}
        return [row["id"] for row in read_rows("d", [path], "jsonl", named)]

    assert kept(challenging=True) == [1]
    assert kept(challenging=False, prompt__toxicity={"minimum": 0.5}) == [2]
    assert kept(prompt__toxicity={"minimum": 0.2, "maximum": 0.5}) == [2, 4]
    assert "d: 2 of 4 rows are those where" in caplog.text
    with pytest.raises(ValueError, match=r"none of its 4 rows .*; challenging is False, True"):
        kept(challenging="true")
    with pytest.raises(ValueError, match=r"p\.jsonl, line 1: no field 'hard'; there are id"):
        kept(hard=True)


def test_where_compares_what_a_csv_file_means(tmp_path):
    path = write(tmp_path / "p.csv", "id,toxic,score\na,1,0.7\nb,0,\nc,True,0.2\n")
    for where, ids in (
        ({"toxic": True}, "ac"),
        ({"toxic": 0}, "b"),
        ({"toxic": "1"}, "a"),
        ({"score": {"maximum": 0.5}}, "c"),
        ({"score": 0.7}, "a"),
    ):
        assert "".join(row["id"] for row in read_rows("d", [path], "csv", where)) == ids


def test_articles_are_counted_over_all_files(tmp_path):
    """A plain file is one of its own, a Parquet table a piece of a whole."""
    parts = ("\n = A = \n\n one \n", "\n = B = \n\n two \n", " three \n\n = C = \n\n four \n")
    plain = [write(tmp_path / f"{n}.raw", part) for n, part in enumerate(parts)]
    tables = [tmp_path / f"{n}.parquet" for n in range(len(parts))]
    for path, part in zip(tables, parts, strict=True):
        pd.DataFrame({"text": part.splitlines(keepends=True)}).to_parquet(path)

    def articles(paths):
        found: dict[int, list] = {}
        for row in read_rows("d", paths, "wikitext"):
            found.setdefault(row["article"], [row["title"]]).append(row["text"])
        return list(found.values())

    assert articles(tables) == [["A", "one"], ["B", "two", "three"], ["C", "four"]]
    assert articles(plain) == [["A", "one"], ["B", "two"], ["", "three"], ["C", "four"]]


def test_where_takes_a_number_that_is_missing_for_none(tmp_path):
    path = write(tmp_path / "p.csv", "id,score\na,NaN\nb,NA\nc,\nd,0.2\n")
    for wanted in ({"minimum": 0}, 0.2):
        (row,) = read_rows("d", [path], "csv", {"score": wanted})
        assert row["id"] == "d"


def test_a_field_of_a_csv_file_may_be_long(tmp_path):
    path = write(tmp_path / "p.csv", f"text\n{'long ' * 40_000}\n")
    assert len(read_rows("d", [path], "csv")[0]["text"]) == 200_000


@pytest.mark.parametrize("format", ["lines", "jsonl", "csv", "parquet", "wikitext"])
def test_a_foreign_file_is_told_by_what_it_is(tmp_path, format):
    for content, message in (
        (gzip.compress(b"text\na\n", mtime=0), "p.x is a gzip archive, not .*: unpack it"),
        ("text\na\n".encode("utf-16-le"), "p.x is UTF-16 text, not .*: save the file as UTF-8"),
    ):
        with pytest.raises(ValueError, match=message):
            read_rows("d", [write(tmp_path / "p.x", content)], format)


def test_a_nul_further_on_is_named(tmp_path):
    path = write(tmp_path / "p.txt", "fine\n" * 300 + "a\0b\n")
    with pytest.raises(ValueError, match=r"p\.txt, line 301: holds a NUL character"):
        read_rows("d", [path], "lines")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_texts_is_named(tmp_path, content):
    path = write(tmp_path / "p.txt", content)
    with pytest.raises(ValueError, match=r"p\.txt holds no text: the file is empty"):
        read_rows("d", [path], "lines")


def test_bytes_that_are_not_utf8_name_file_and_line(tmp_path):
    path = write(tmp_path / "p.txt", b"one\n\ntw\xf6\n")
    with pytest.raises(ValueError, match=r"p\.txt, line 3: not UTF-8 \(.* at byte 2 of the line"):
        read_rows("d", [path], "lines")


def test_a_format_that_holds_no_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"d: texts are read from lines, .*, not from 'mediawiki'"):
        read_rows("d", [tmp_path / "dump.xml"], "mediawiki")


def test_fetched_files_have_base_names():
    files = {"files": [{"path": "x/a.csv"}, {"path": "b.csv"}], "url": "https://h/z.zip"}
    assert [str(path) for path in fetched_files(files, "f")] == ["f/a.csv", "f/b.csv"]
    (path,) = fetched_files({"url": "https://h/x/two%20words.csv?download=1"}, "f")
    assert str(path) == "f/two words.csv"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://u:SECRET@h/?x=SECRET", r"https://\*\*\*@h/ does not end in the name of a file"),
        ("https://h/a b.csv", "cannot hold ' '; write it as %20"),
        ("https://u:p'SECRET@h/a.csv", 'cannot hold "\'"; write it as %27'),
        ("https://h/é.csv", "cannot hold 'é'; write it as %C3%A9"),
        ("https://h/a.csv\n", r"cannot hold '\\n'; write it as %0A"),
        ("https://u:SECRET@h:port/a.csv", "no valid host or port"),
        ("https://:80/a.csv", "no valid host or port"),
        ("ftp://h/a.csv", "only http and https"),
    ],
)
def test_an_address_that_leads_to_no_file_is_refused(url, said):
    with pytest.raises(ValueError, match=said) as caught:
        url_name(url)
    assert "SECRET" not in str(caught.value)

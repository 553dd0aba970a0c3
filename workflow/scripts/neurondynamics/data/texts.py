"""Reading datasets as rows with fields.

Nothing heavy is imported here, since rule files may import this module; a table in Parquet brings
pyarrow once it is read.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from neurondynamics.data.formats import PARQUET, refuse_foreign, taking
from neurondynamics.data.records import parse_object
from neurondynamics.data.rows import Row, field, fits, text_of
from neurondynamics.runtime import shown_url

logger = logging.getLogger(__name__)

TEXT = "text in UTF-8"
CODECS = {1: "utf-8-sig"}  # only the first line may begin with a byte order mark
NOT_IN_URLS = re.compile(r"""[^!-~]|["'<>\\]""")
NEWLINES = "end its lines with newlines, as `tr '\\r' '\\n' < OLD > NEW` does"
csv.field_size_limit(2**31 - 1)  # a text may be a whole book; the default is 128 KiB


def read_rows(
    name: str,
    paths: Iterable[str | Path],
    format: str,
    where: Mapping | None = None,
) -> list[Row]:
    """Read the rows of all files of a dataset, in their order.

    Parameters
    ----------
    name : of the dataset, for the log and for errors.
    format : "lines" (the text of a row is a line; blank ones are none), "jsonl" (one JSON object a
        line), "csv" (with a header; all values are texts), "parquet", or "wikitext": the
        paragraphs of WikiText, from a Parquet table or a plain file of its lines, with the `title`
        and number of their `article` and without headings. Articles are counted over all files: a
        further Parquet table goes on where the last one ended, a further plain file does not.
    where : only rows whose fields have these values. A mapping of `minimum` and `maximum` takes the
        numbers between them.

    Raises
    ------
    ValueError : naming the file, and the line or row where one is at fault, if a file cannot be
        read as the format says, holds no row, or a row lacks a field of `where`; and if no row is
        as `where` wants it.
    """
    if format not in READERS:
        raise ValueError(f"{name}: texts are read from {', '.join(READERS)}, not from {format!r}")
    rows = []
    for path in map(Path, paths):
        found = list(READERS[format](path))
        if not found:
            raise ValueError(f"{path} holds no text: the file is empty or all its lines are blank")
        if format == "wikitext" and rows:
            _count_on(rows[-1], found, path.suffix == ".parquet")
        rows += found
    if not where:
        return rows
    kept = [row for row in rows if all(fits(row, key, value) for key, value in where.items())]
    logger.info("%s: %d of %d rows are those where %s", name, len(kept), len(rows), where)
    if not kept:
        found = {key: sorted({repr(field(row, key)) for row in rows})[:5] for key in where}
        values = "; ".join(f"{key} is {', '.join(some)}" for key, some in found.items())
        raise ValueError(f"{name}: none of its {len(rows)} rows is one where {where}; {values}")
    return kept


def _read_lines(path: Path) -> Iterator[Row]:
    for number, line in _decode(path):
        if line.strip():
            yield Row({"text": line.strip()}, path, number, "lines")


def _decode(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers.

    The bytes are cut at newlines alone: a text may hold one of Unicode's other line separators.
    """
    refuse_foreign(path, TEXT)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1 and b"\r" in raw.rstrip(b"\r\n") and not raw.endswith(b"\n"):
                raise ValueError(f"{path}: its lines end in carriage returns alone; {NEWLINES}")
            if b"\0" in raw:
                raise ValueError(
                    f"{path}, line {number}: holds a NUL character; if the file is UTF-16, save it "
                    "as UTF-8"
                )
            try:
                yield number, raw.decode(CODECS.get(number, "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of "
                    "the line). Save the file as UTF-8."
                ) from error


def _read_objects(path: Path) -> Iterator[Row]:
    for number, line in _decode(path):
        if line.strip():
            record = parse_object(line, f"{path}, line {number}")
            yield Row(record, path, number, "jsonl")


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows under a header, all of whose values are texts.

    A quoted field may hold line breaks. Raises ValueError, naming file and line, for what is no
    CSV in UTF-8 and for a row of more or fewer fields than the header has.
    """
    reader = csv.reader((line for _, line in _decode(path)), strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            if "new-line" in str(error):
                raise ValueError(
                    f"{path}, line {number}: a carriage return stands alone in a field without "
                    f"quotes; put the field into quotes, or {NEWLINES}"
                ) from error
            raise ValueError(f"{path}, line {number}: not CSV ({error})") from error
        if values is None:
            return
        if not values:
            continue  # a blank line
        if not header:
            header = values
            twice = {column for column in header if header.count(column) > 1}
            if twice:
                raise ValueError(f"{path}, line {number}: the header names {twice.pop()!r} twice")
        elif len(values) != len(header):
            raise ValueError(
                f"{path}, line {number}: {len(values)} fields, where the header has {len(header)}"
            )
        else:
            yield Row(dict(zip(header, values, strict=True)), path, number, "csv")


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    with taking(path, PARQUET), parquet.ParquetFile(path) as table:
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        batches = (batch.to_pylist() for batch in table.iter_batches())
        records = (record for batch in batches for record in batch)
        for number, record in enumerate(records, start=1):
            yield Row(record, path, number, "parquet")


def _read_wikitext(path: Path) -> Iterator[Row]:
    """Yield paragraphs. A heading, such as "= Title =" or "= = Section = =", stands alone among
    blank lines; what looks like one within a paragraph is none. Where most that look like one do
    not stand so, blank lines were taken out, and all of them are headings."""
    if path.suffix == ".parquet":
        rows = list(_read_parquet(path))
    else:
        rows = [Row({"text": line}, path, number, "lines") for number, line in _decode(path)]
    texts = (
        "" if row.get("text", "") is None else text_of(row, "text", blank=True) for row in rows
    )
    lines = ["", *map(str.strip, texts), ""]
    alike = {n for n, line in enumerate(lines) if line.startswith("= ") and line.endswith(" =")}
    headings = {n for n in alike if not lines[n - 1] and not lines[n + 1]}
    if 2 * len(headings) < len(alike):
        logger.warning(
            "%s: %d lines that look like headings are taken for such, though %d do not stand among "
            "blank lines",
            *(path, len(alike), len(alike - headings)),
        )
        headings = alike
    title, article = "", 0
    for number, (row, line) in enumerate(zip(rows, lines[1:], strict=False), start=1):
        if number in headings:
            if not line.startswith("= ="):
                title, article = line.strip("= "), article + 1
        elif line:
            row.update(text=line, title=title, article=article)
            yield row


def _count_on(last: Row, found: list[Row], continued: bool) -> None:
    """Count the articles of a further file on from the last row of those before it.

    Where it is `continued`, what it holds before a title still belongs to the last article.
    """
    for row in found:
        if continued and not row["article"]:
            row["title"] = last["title"]
        row["article"] += last["article"] + (not continued)


READERS = {
    "lines": _read_lines,
    "jsonl": _read_objects,
    "csv": csv_rows,
    "parquet": _read_parquet,
    "wikitext": _read_wikitext,
}


def fetched_files(dataset: Mapping, folder: str | Path) -> list[Path]:
    """Return the paths that the files of a dataset have in the folder they were fetched into."""
    if "files" in dataset:
        names = [PurePosixPath(file["path"]).name for file in dataset["files"]]
    else:
        names = [url_name(dataset["url"])]
    return [Path(folder) / name for name in names]


def url_name(url: str) -> str:
    """Return the name of the file that a URL leads to.

    Raises ValueError for a URL that is not of http or https, does not end in a name, has no valid
    host or port, or holds a character that stands in none.
    """
    try:
        parts = urlsplit(url)
        valid = parts.hostname and parts.port != 0
    except ValueError as error:
        raise ValueError(f"{shown_url(url)}: the address has no valid host or port") from error
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{shown_url(url)}: only http and https URLs are downloaded")
    if not valid:
        raise ValueError(f"{shown_url(url)}: the address has no valid host or port")
    strange = NOT_IN_URLS.search(url)
    if strange:
        raise ValueError(
            f"{shown_url(url)}: an address cannot hold {strange[0]!r}; write it as "
            f"{quote(strange[0])}"
        )
    name = PurePosixPath(unquote(parts.path)).name
    if name in ("", ".."):
        raise ValueError(f"{shown_url(url)} does not end in the name of a file")
    return name

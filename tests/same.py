"""Compare the results of a study before and after a change of the code, byte for byte.

    python tests/same.py BEFORE AFTER [--renamed OLD=NEW ...]

BEFORE and AFTER are folders in which a study was run. All that lies in their `results/` and
`resources/` counts, whatever its time; logs, benchmarks and Snakemake's own files do not. Links are
followed; of those that lead nowhere, or back up, the targets are compared. Prints what differs and
where, and ends with 1 unless everything is equal.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PARTS = ("results", "resources")
SNAKEMAKE = ".snakemake"  # how its own files and folders begin
TEXTS = {".csv", ".svg", ".json", ".jsonl", ".md"}  # whose words a renaming may have changed
BLOCK = 2**20  # bytes
EQUAL_INSIDE = "; what it holds is equal"

Renamed = list[tuple[str, str]]


def differences(before: Path, after: Path, renamed: Renamed = ()) -> Iterator[str]:
    """Yield a line for each file that is missing, too many or not the same.

    `renamed`: old and new words. In the paths of files they are replaced where they stand alone,
    next to an underscore too; in the content of a text of `before` only if it has changed. Raises
    ValueError if there is nothing to compare, or the renaming makes two names one.
    """
    if before.resolve() == after.resolve():
        raise ValueError(f"{before} and {after} are one folder")
    old: dict[str, str] = {}
    for name in list_files(before):
        other = old.setdefault(replace_words(name, renamed), name)
        if other != name:
            raise ValueError(f"{other} and {name} would have one name; rename less")
    new = set(list_files(after))
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"{name}: only in {after}"
        elif name not in new:
            yield f"{old[name]}: missing in {after}"
        else:
            try:
                found = difference(before / old[name], after / name, renamed)
            except OSError as error:
                found = f"cannot be read ({error})"
            if found:
                yield f"{name}: {found}"


def list_files(folder: Path) -> list[str]:
    """Return the paths of all files that count, relative to the folder.

    Raises ValueError if there are none: nothing would be the same as nothing.
    """
    parts = [folder / part for part in PARTS if os.path.lexists(folder / part)]
    names = [path.relative_to(folder) for part in parts for path in walk(part)]
    kept = [str(n) for n in names if not any(part.startswith(SNAKEMAKE) for part in n.parts)]
    if not kept:
        raise ValueError(f"{folder} holds no file in {' or '.join(PARTS)}: is it a study's folder?")
    return kept


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield all that is no folder, links back up too, and folders that cannot be listed."""
    above = (*above, folder.resolve())
    try:
        within = sorted(folder.iterdir())
    except OSError:
        yield folder
        return
    for path in within:
        if os.path.isdir(path) and not any(one.is_relative_to(path.resolve()) for one in above):
            yield from walk(path, above)
        else:
            yield path


def replace_words(text: str, renamed: Renamed) -> str:
    for old, new in renamed:
        text = re.sub(rf"(?<![^\W_]){re.escape(old)}(?![^\W_])", lambda _, new=new: new, text)
    return text


def difference(before: Path, after: Path, renamed: Renamed = ()) -> str | None:
    """Say where two files first differ; None where they are the same.

    Raises OSError if one cannot be read."""
    if not (before.is_file() and after.is_file()):
        return difference_of_links(before, after, renamed)
    byte = first_place(blocks(before), blocks(after))
    if byte is None:
        return None
    try:
        if renamed and before.suffix in TEXTS:
            old, new = replace_words(decoded(before), renamed), decoded(after)
            return None if old == new else f"differs{place_in_text(before.suffix, old, new)}"
        place = DESCRIBED.get(before.suffix, lambda *_: "")(before, after)
    except Exception as error:  # what is damaged cannot be described; that it differs is known
        place = f", cannot be read ({(str(error) or repr(error)).splitlines()[0]})"
    return f"differs from byte {byte} on{place}"


def difference_of_links(before: Path, after: Path, renamed: Renamed) -> str | None:
    """Compare what is no file: links that lead nowhere or to a folder, by their targets."""
    if not (before.is_symlink() and after.is_symlink()):
        return "is no file, or no longer the same kind of thing"
    old, new = replace_words(os.readlink(before), renamed), os.readlink(after)
    return None if old == new else f"differs, a link to {shortened(old)}, now {shortened(new)}"


def decoded(path: Path) -> str:
    return path.read_bytes().decode()  # not as text, which would make all line ends alike


def blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block


def first_place(before: Iterable[Sequence], after: Iterable[Sequence]) -> int | None:
    """Return the first place where two sequences of blocks differ, or at which one of them ends."""
    start = 0
    for one, other in itertools.zip_longest(before, after, fillvalue=b""):
        if one != other:
            pairs = enumerate(zip(one, other, strict=False))
            unequal = (place for place, (a, b) in pairs if a != b)
            return start + next(unequal, min(len(one), len(other)))
        start += len(one)
    return None


def describe_text(before: Path, after: Path) -> str:
    return place_in_text(before.suffix, decoded(before), decoded(after))


def place_in_text(suffix: str, before: str, after: str) -> str:
    """Say in which line two texts first differ, and of a CSV file in which row and column."""
    if suffix == ".csv":
        tables = (list(csv.reader(io.StringIO(text, newline=""))) for text in (before, after))
        return place_in_rows(*tables) or EQUAL_INSIDE
    lines = itertools.zip_longest(before.split("\n"), after.split("\n"))
    for number, (old, new) in enumerate(lines, start=1):
        if old != new:
            start = 0
            if old and new:  # a long line from a little before the place
                start = max(0, first_place([old], [new]) - 20)
                old, new = old[start:], new[start:]
            return f", line {number}, column {start + 1}: {shortened(old)}, now {shortened(new)}"
    return ""


def place_in_rows(before: list[list[str]], after: list[list[str]]) -> str:
    header, other = before[0] if before else [], after[0] if after else []
    for number, (old, new) in enumerate(itertools.zip_longest(header, other), start=1):
        if old != new:
            return f", column {number}: named {shortened(old)}, now {shortened(new)}"
    for number, (old, new) in enumerate(zip(before[1:], after[1:], strict=False), start=1):
        for column, one, two in itertools.zip_longest(header, old, new):
            if one != two:
                return f", row {number}, column {column}: {shortened(one)}, now {shortened(two)}"
    return "" if len(before) == len(after) else f", rows: {len(before) - 1}, now {len(after) - 1}"


def shortened(value: object) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe_hdf5(before: Path, after: Path) -> str:
    import h5py

    with h5py.File(before, "r") as one, h5py.File(after, "r") as other:
        for key in sorted({*one.attrs, *other.attrs}):
            pair = [file.attrs.get(key) for file in (one, other)]
            if repr(pair[0]) != repr(pair[1]):
                return f", attribute {key}: {shortened(pair[0])}, now {shortened(pair[1])}"
        return place_in_arrays(*map(arrays_of_hdf5, (one, other)))


def arrays_of_hdf5(file) -> dict:
    names: list[str] = []
    file.visit(names.append)
    return {f"dataset {name}": file[name][...] for name in names if hasattr(file[name], "dtype")}


def describe_tensors(before: Path, after: Path) -> str:
    one, other = map(tensors, (before, after))
    if one != other:
        return place_in_text("", json.dumps(one, indent=1), json.dumps(other, indent=1))
    byte = first_place(blocks(before), blocks(after))
    start = before.stat().st_size - max(about["data_offsets"][1] for about in one.values())
    for name, about in one.items():
        first, end = about["data_offsets"]
        if first <= byte - start < end:
            return f", tensor {name}, byte {byte - start - first} of {end - first}"
    return ""


def tensors(path: Path) -> dict:
    """Return dtype, shape and place of each tensor of a safetensors file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def place_in_arrays(before: dict, after: dict) -> str:
    """Say which array of two mappings first differs, and in how many elements."""
    for name in sorted({*before, *after}):
        if name not in after:
            return f", {name} is missing"
        if name not in before:
            return f", {name} is new"
        one, other = before[name], after[name]
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return f", {name}: {one.dtype} {one.shape}, now {other.dtype} {other.shape}"
        if one.tobytes() != other.tobytes():
            rows = [array.reshape(-1).view(f"V{array.itemsize}") for array in (one, other)]
            unequal = [a.tobytes() != b.tobytes() for a, b in zip(*rows, strict=True)]
            place = unequal.index(True)
            values = f"{one.flat[place]}, now {other.flat[place]}"
            return f", {name}, element {place}: {values}; {sum(unequal)} elements in all"
    return EQUAL_INSIDE


def describe_parquet(before: Path, after: Path) -> str:
    from pyarrow import parquet

    one, other = (
        parquet.read_table(path, page_checksum_verification=True) for path in (before, after)
    )
    if one.column_names != other.column_names:
        return place_in_rows([one.column_names], [other.column_names])
    for column in one.column_names:
        old, new = one[column], other[column]
        if old.type != new.type or len(old) != len(new):
            return f", column {column}: {len(old)} {old.type}, now {len(new)} {new.type}"
        for row, (a, b) in enumerate(zip(old.to_pylist(), new.to_pylist(), strict=True), start=1):
            if repr(a) != repr(b):  # NaN is as it was
                return f", row {row}, column {column}: {shortened(a)}, now {shortened(b)}"
    return EQUAL_INSIDE


DESCRIBED = {
    **dict.fromkeys(TEXTS, describe_text),
    ".h5": describe_hdf5,
    ".parquet": describe_parquet,
    ".safetensors": describe_tensors,
}


def renaming(argument: str) -> tuple[str, str]:
    old, equals, new = argument.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, found {argument!r}")
    return old, new


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the folder of a study's results as they were")
    parser.add_argument("after", type=Path, help="the folder of the same study's results now")
    parser.add_argument(
        "--renamed",
        metavar="OLD=NEW",
        nargs="+",
        type=renaming,
        default=[],
        help="words that were changed on purpose, in names of files and in texts",
    )
    options = parser.parse_args(arguments)
    try:
        found = 0
        for line in differences(options.before, options.after, options.renamed):
            found += 1
            print(line)
        number = len(list_files(options.after))
    except ValueError as error:
        parser.error(str(error))
    print(f"differences: {found}" if found else f"all {number} files are equal")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

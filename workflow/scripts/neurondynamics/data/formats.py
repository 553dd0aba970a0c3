"""What a file is by its first bytes, so that a message need not guess.

Nothing heavy is imported here, since rule files may import this module.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HEAD = 1024  # bytes that are looked at
PARQUET = "a Parquet table"
BZIP2 = "a bzip2 archive"
UNPACK = "unpack it and name the file that it holds"
SAVE = "save the file as UTF-8"
REMEDIES = {
    "a pointer of git-lfs": "it stands for the content, which `git lfs pull` brings",
    "a web page": "the address led to a page, perhaps one to log in at; fetch the file itself",
    "a gzip archive": UNPACK,
    BZIP2: UNPACK,
    "a zip archive": UNPACK,
    "an xz archive": UNPACK,
    "a zstd archive": UNPACK,
    "a 7z archive": UNPACK,
    "a tar archive": UNPACK,
    "UTF-16 text": SAVE,
    "UTF-32 text": SAVE,
    PARQUET: "say `format: parquet`, if it is a dataset",
    "an HDF5 file": "export it from the program that wrote it",
    "a GGUF file": "name it as the source of a model",
    "a safetensors file": "name its folder as the source of a model",
    "a NumPy array": "save what it holds in another format",
    "a pickle": "nothing is ever unpickled; save what it holds in another format",
    "a PDF file": "save its text as UTF-8",
    "a binary file": "is it the file that was meant?",
}
BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": "a pointer of git-lfs",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": BZIP2,
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"PAR1": PARQUET,
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"%PDF-": "a PDF file",
    b"\xff\xfe\0\0": "UTF-32 text",
    b"\0\0\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def what_is(path: str | Path) -> str | None:
    """Return what a file is, a key of REMEDIES; None for plain text, or for nothing at all."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    for beginning, name in BEGINNINGS.items():
        # a text may begin with the three letters of bzip2, whose stream has a block size and mark
        if head.startswith(beginning) and (name != BZIP2 or head[4:5] in b"1\x17"):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if head[8:10] == b'{"' and b"\0" in head[:8]:
        return "a safetensors file"
    if head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5":
        return "a pickle"
    if b"\0" in head:
        utf16 = any(_is_text(head, codec) for codec in ("utf-16-le", "utf-16-be"))
        return "UTF-16 text" if utf16 else "a binary file"
    return None


def _is_text(head: bytes, codec: str) -> bool:
    """Return whether bytes are words or lines in a codec, with no other control characters."""
    try:  # the last character may be cut
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeDecodeError:
        return False
    kinds = {unicodedata.category(character) for character in text if character not in "\t\r\n"}
    return not kinds & {"Cc", "Cn", "Co"} and any(character in " \n" for character in text)


def refuse_foreign(path: str | Path, wanted: str, *also: str) -> None:
    """Raise ValueError, with a remedy, for a file that is by its first bytes not what is `wanted`.

    `wanted` is a key of REMEDIES, or some kind of text in the words of the message; `also` are
    further keys that are good.
    """
    found = what_is(path)
    if found not in (None, wanted, *also):
        raise ValueError(f"{path} is {found}, not {wanted}: {REMEDIES[found]}")


@contextmanager
def taking(path: str | Path, wanted: str, *also: str) -> Iterator[None]:
    """Turn whatever a block that only reads a user's file raises into a ValueError that names it.

    `wanted` and `also` as in `refuse_foreign`. A file that is not there, or may not be read, is not
    damaged.
    """
    refuse_foreign(path, wanted, *also)
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path}: not {wanted}, or a damaged one ({error})") from error

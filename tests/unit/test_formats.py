"""What a file is, is known by its first bytes."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from neurondynamics.data.formats import PARQUET, refuse_foreign, what_is
from safetensors.numpy import save

LINES = "A line of text\nand another one, é\n"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", LINES)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(40))
    return buffer.getvalue()


FOREIGN = {
    "a gzip archive": gzip.compress(LINES.encode(), mtime=0),
    "a bzip2 archive": bz2.compress(LINES.encode()),
    "an xz archive": lzma.compress(LINES.encode()),
    "a zip archive": zipped(),
    "a tar archive": tarred(),
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    "a web page": b"\n<!DOCTYPE html><html><head>",
    "a pickle": pickle.dumps([1]),
    "a safetensors file": save({"a": np.zeros(3)}),
    PARQUET: pd.DataFrame({"a": [1]}).to_parquet(),
    "a NumPy array": npy(),
    "a binary file": bytes(range(64)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_is_named_with_a_remedy(tmp_path, name):
    (tmp_path / "a").write_bytes(FOREIGN[name])
    assert what_is(tmp_path / "a") == name
    with pytest.raises(ValueError, match=rf"/a is {name}, not a list: \w.+"):
        refuse_foreign(tmp_path / "a", "a list")
    refuse_foreign(tmp_path / "a", name)


@pytest.mark.parametrize("text", [LINES, "Строка\nтекста\n" * 99, "第一行文字。\n第二行\n" * 99])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_known_with_a_mark_and_without(tmp_path, codec, text):
    (tmp_path / "a").write_text(text, encoding=codec)
    assert what_is(tmp_path / "a") == f"UTF-{codec[4:6]} text"


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i2", "<i4"])
def test_numbers_are_no_text(tmp_path, kind):
    (tmp_path / "a").write_bytes((np.random.default_rng(0).normal(size=99) * 99).astype(kind))
    assert what_is(tmp_path / "a") in ("a binary file", None)
    (tmp_path / "a").write_bytes(np.arange(99).astype(kind))
    assert what_is(tmp_path / "a") == "a binary file"


@pytest.mark.parametrize("text", ["", LINES, "\ufeff" + LINES, "BZh is no archive", "{}", "MZ 7z"])
def test_plain_text_is_nothing_else(tmp_path, text):
    (tmp_path / "a").write_text(text, encoding="utf-8")
    assert what_is(tmp_path / "a") is None

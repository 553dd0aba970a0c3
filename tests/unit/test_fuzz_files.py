"""Whatever happens to a file: it is read as it was meant, or refused with its name in the message.

For every format that is read: cut off, flipped bytes, empty, in another encoding, in the place of
one another, with a huge field.
"""

import bz2
import io
import random
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from neurondynamics.analysis.attribution import GROUPS
from neurondynamics.analysis.reductions import create_reductions, read_reductions
from neurondynamics.data.mediawiki import read_articles
from neurondynamics.data.records import read_json, read_jsonl, write_json, write_jsonl
from neurondynamics.data.store import ActivationStore, create_store
from neurondynamics.data.tables import read_csv, read_parquet, write_csv, write_parquet
from neurondynamics.data.texts import READERS, read_rows
from neurondynamics.evaluation.lexicon import read_terms
from neurondynamics.fetching.archives import take_members
from neurondynamics.interventions.selection import select
from neurondynamics.interventions.units import Units

TEXTS = [f'text {n}, "quoted" é' for n in range(12)]
ROWS = [{"text": text, "label": n / 12, "of it": {"n": n}} for n, text in enumerate(TEXTS)]
TABLE = pd.DataFrame({"text": TEXTS, "label": np.arange(12) / 12})
NEURONS = pd.DataFrame({"layer": np.repeat(range(4), 5), "neuron": list(range(5)) * 4})
DUMP = (
    "<mediawiki><page><title>One</title><ns>0</ns><revision><text>It is ''one''.</text></revision>"
    "</page></mediawiki>"
)


def as_bytes(write, *arguments):
    buffer = io.BytesIO()
    write(buffer, *arguments)
    return buffer.getvalue()


def zipped(buffer):
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "\n".join(TEXTS))


def tarred(buffer):
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 400
        archive.addfile(member, io.BytesIO(b"a line\n" * 100))


def unpack(path):
    folder = path.with_name("unpacked")
    folder.mkdir(exist_ok=True)
    (copy,) = take_members(path, ["a.txt"], folder)
    return copy.read_bytes()


def write_store(path):
    widths = {"mlp": 3, "attention": 2}
    sizes = {"prompts": 12, "new_tokens": 2, "layers": 2, "widths": widths}
    with create_store(path, attributes={"state": "base"}, **sizes) as store:
        ones = np.ones((12, 2))
        means = {module: np.ones((2, 12, width)) for module, width in widths.items()}
        store.append(range(12), TEXTS, ones, ones[:, 0], means)


def read_store(path):
    with ActivationStore([path]) as store:
        means = [store.mean(1, module).tolist() for module in store.widths]
        return store.prompts, store.tokens.tolist(), means


def write_reductions(path):
    with create_reductions(path, 3, 2) as sums:
        for part in sums:
            part[:] = np.ones((3, 2, len(GROUPS)))


LINES = "\n".join(TEXTS).encode()
# by kind: the file's suffix, what it holds or what writes it, and what reads it
USERS = {
    "lines": (".txt", LINES, lambda path: read_rows("d", [path], "lines")),
    "jsonl": (".jsonl", pd.DataFrame(ROWS).to_json(orient="records", lines=True).encode(), None),
    "csv": (".csv", TABLE.to_csv(index=False).encode(), None),
    "parquet": (".parquet", TABLE.to_parquet(), None),
    "wikitext": (".txt", b" \n = One = \n \n text \n \n = Two = \n \n more \n", None),
    "mediawiki": (".xml", DUMP.encode(), lambda path: list(read_articles(path))),
    "packed dump": (".bz2", bz2.compress(DUMP.encode()), lambda path: list(read_articles(path))),
    "lexicon": (".csv", b"text,severity_rating\nfool,1.5\n", read_terms),
    "neurons": (".csv", NEURONS.to_csv(index=False).encode(), None),
    "neurons in parquet": (".parquet", NEURONS.to_parquet(), None),
    "zip": (".zip", as_bytes(zipped), unpack),
    "tar": (".tar.gz", as_bytes(tarred), unpack),
}
OWN = {
    "store": (".h5", write_store, read_store),
    "reductions": (".h5", write_reductions, read_reductions),
    "own parquet": (".parquet", lambda path: write_parquet(path, TABLE), read_parquet),
    "own csv": (".csv", lambda path: write_csv(path, TABLE), read_csv),
    "own json": (".json", lambda path: write_json(path, ROWS[0]), read_json),
    "own jsonl": (".jsonl", lambda path: write_jsonl(path, ROWS), read_jsonl),
}
KINDS = USERS | OWN


def reader(kind):
    given = KINDS[kind][2]
    if given is not None:
        return given
    if kind in READERS:
        return lambda path: read_rows("d", [path], kind)
    return lambda path: select(Units(NEURONS), {"file": str(path)}).neurons


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """What a file of each kind holds."""
    folder, found = tmp_path_factory.mktemp("contents"), {}
    for kind, (suffix, made, _) in KINDS.items():
        if callable(made):
            made(folder / f"a{suffix}")
            made = (folder / f"a{suffix}").read_bytes()
        found[kind] = made
    return found


def damaged(content: bytes, others: list[bytes]):
    """Yield what may stand in a file's place."""
    draw = random.Random(0)
    yield from (b"", b"\n", b"\0" * 4096, content + content, content[::-1])
    for _ in range(8):
        yield content[: draw.randrange(len(content))]
    for number in (1, 1, 1, 1, 8, 8, 64, 64):
        flipped = bytearray(content)
        for _ in range(number):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        yield bytes(flipped)
    text = content.decode("latin-1")
    for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"):
        yield text.encode(codec)
    yield content + b"x" * 300_000
    yield b'{"text": ' + b"[" * 50_000
    yield from others


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_named(contents, tmp_path, kind):
    path = tmp_path / f"the-file{KINDS[kind][0]}"
    read = reader(kind)
    path.write_bytes(contents[kind])
    read(path)  # as it is
    for content in damaged(contents[kind], [c for k, c in contents.items() if k != kind]):
        path.write_bytes(content)
        try:
            read(path)
        except (ValueError, OSError) as error:
            assert "the-file" in str(error), (content[:80], error)  # noqa: PT017

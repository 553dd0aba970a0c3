"""A file is there whole or not at all, and a line that is wrong is named."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from neurondynamics.data import records as records_module
from neurondynamics.data.files import reading, replacing, replacing_folder, require_space
from neurondynamics.data.records import (
    package_versions,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from safetensors.numpy import save_file

WRITER = """
import sys, time
from neurondynamics.data.files import replacing, replacing_folder
with {name}(sys.argv[1]) as temporary:
    (temporary / "a" if temporary.is_dir() else temporary).write_text("other")
    print("writing", flush=True)
    sys.stdin.read()
"""


def start_writer(path, name="replacing"):
    """Start another process that has begun to write `path` and goes on when its input is closed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(name=name), str(path)],
        env={"PYTHONPATH": str(Path(records_module.__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout.readline() == "writing\n"
    return writer


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as temporary:
        temporary.write_text("content")
        assert temporary.name == path.name
        assert temporary.parent.parent == path.parent
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


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_records_of_another_place_are_refused(tmp_path, name):
    """Where the folder of the study lies does not matter, and what is no result has no place."""
    write, read = (write_json, read_json) if name == "a.json" else (write_jsonl, read_jsonl)
    content = {"text": "a"} if name == "a.json" else [{"text": "a"}]
    folder = tmp_path / "results" / "tiny"
    (folder / "base").mkdir(parents=True)
    write(folder / name, content)
    assert str(tmp_path) not in (folder / name).read_text()
    shutil.copy(folder / name, folder / "base")
    with pytest.raises(ValueError, match=rf"is not the .* but results/tiny/{name}; rebuild"):
        read(folder / "base" / name)
    shutil.copytree(tmp_path / "results", tmp_path / "moved" / "results")
    for place in (folder, tmp_path / "moved" / "results" / "tiny"):
        assert read(place / name) == content
    shutil.copy(folder / name, tmp_path)
    assert read(tmp_path / name) == content


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
    assert json.loads(text) == read_json(tmp_path / "a.json") == {"b": "é", "a": 1}
    assert text.endswith("}\n")
    assert "é" in text


def test_json_that_is_damaged_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    (tmp_path / "list.json").write_text("[]")
    for name, said in (("a", "cannot be"), ("list", "cannot be"), ("absent", "is not there")):
        with pytest.raises(ValueError, match=rf"{name}\.json {said}.*--force"):
            read_json(tmp_path / f"{name}.json")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "denied"), "may not be read by you; change its permissions"),
        (OSError("unable to lock file, errno = 37, x"), "set HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError("file is already open for write (may use h5clear)"), "open in another program"),
    ],
)
def test_what_the_machine_refuses_is_not_called_damaged(tmp_path, error, said):
    (tmp_path / "a.h5").touch()
    with pytest.raises(OSError, match=rf"a\.h5 .*{said}") as told, reading(tmp_path / "a.h5"):
        raise error
    assert "--force" not in str(told.value)


def test_versions_of_what_activations_depend_on():
    assert {"torch", "transformers", "numpy"} <= set(package_versions())


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "table.csv"
    for _ in range(2):
        with start_writer(path) as writer:
            writer.send_signal(signal.SIGKILL)
    (leftover,) = tmp_path.iterdir()  # the second has removed what the first left
    assert (leftover / "table.csv").read_text() == "other"
    with replacing(tmp_path / "other.csv") as temporary:
        temporary.write_text("of another file")
    assert leftover.exists()
    with replacing(path) as temporary:
        assert not leftover.exists()
        temporary.write_text("mine")
    assert names(tmp_path) == ["other.csv", "table.csv"]


@pytest.mark.parametrize("first_to_finish", ["this", "other"])
@pytest.mark.parametrize("name", ["replacing", "replacing_folder"])
def test_an_orphan_that_still_writes_and_a_new_writer_do_no_harm(tmp_path, name, first_to_finish):
    """Neither fails: Snakemake would delete the output of a job that fails, whoever wrote it."""
    path = tmp_path / "result"
    orphan = start_writer(path, name)

    def finish_orphan():
        orphan.communicate()
        assert orphan.returncode == 0

    with {"replacing": replacing, "replacing_folder": replacing_folder}[name](path) as temporary:
        file = temporary if name == "replacing" else temporary / "a"
        file.write_text("mine")
        if first_to_finish == "other":
            finish_orphan()
            assert (path if name == "replacing" else path / "a").read_text() == "other"
    found = path if name == "replacing" else path / "a"
    assert found.read_text() == "mine"
    if first_to_finish == "this":
        finish_orphan()
        assert found.read_text() == "other"
    assert names(tmp_path) == ["result"]


def test_a_folder_of_a_writer_that_is_about_to_lock_it_stays(tmp_path):
    new, old, foreign = (tmp_path / f".table.csv.{end}" for end in ("0a1b2c3d", "4e5f6a7b", "mine"))
    for folder in (new, old, foreign):
        folder.mkdir()
        os.utime(folder, (time.time() - (1 if folder == new else 100),) * 2)
    with replacing(tmp_path / "table.csv") as temporary:
        temporary.write_text("content")
    assert names(tmp_path) == [new.name, foreign.name, "table.csv"]


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path):
    path = tmp_path / "new" / "model"
    for number in (1, 2):
        with replacing_folder(path) as staged:
            (staged / f"weights{number}").write_text("content")
            (staged.parent / "on the way").write_text("not kept")
            assert not (path / f"weights{number}").exists()
        assert names(path) == [f"weights{number}"]
        assert names(path.parent) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_folder_that_was_there(tmp_path, error):
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")

    def fail():
        with replacing_folder(path) as staged:
            (staged / "weights").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (path / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


WRITERS = {
    "python": lambda path: path.write_bytes(bytes(2**22)),
    "safetensors": lambda path: save_file({"a": np.zeros(2**19)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_says_what_was_needed_and_leaves_nothing(small_disk, name):
    def write(size):
        with replacing(small_disk / "a.bin", size) as temporary:
            WRITERS[name](temporary)

    for size, needed in ((0, r"more than [\d.]+ \w+"), (2**22, r"4\.0 MiB")):
        with pytest.raises(
            OSError, match=rf"writing .*a\.bin needs {needed} and 2\.0 MiB"
        ) as error:
            write(size)
        assert error.value.errno == errno.ENOSPC
        assert names(small_disk) == []


def test_a_full_disk_keeps_the_folder_that_was_there(small_disk):
    path = small_disk / "model"

    def write(size):
        with replacing_folder(path) as staged:
            (staged / "weights").write_bytes(bytes(size))

    write(2**20)
    with pytest.raises(OSError, match=r"model needs more than .* and 1\.0 MiB are free"):
        write(2**22)
    assert (path / "weights").stat().st_size == 2**20
    assert names(small_disk) == ["model"]


def test_room_is_compared_with_what_is_needed(small_disk):
    require_space(small_disk / "a", 2**20)
    with pytest.raises(OSError, match=r"a needs 3\.0 MiB and 2\.0 MiB are free"):
        require_space(small_disk / "a", 3 * 2**20)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(PermissionError, match="not this one"), replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "not this one")

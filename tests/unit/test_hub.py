"""The hub: what is taken of a repository, with what token, and what goes wrong.

A server of this machine speaks for the hub; real are its client and its cache.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from neurondynamics.fetching import retries
from neurondynamics.fetching.sources import fetch_files
from servers import COMMIT, TOKEN, Content, Hub, serving

WEIGHTS = bytes(range(256)) * 40
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 400,
    "consolidated.safetensors": WEIGHTS,
    "own.py": b"code",
    "onnx/config.json": b"[]",
    "data/test.csv": b"text\na\n",
}
SOURCE = {"hub": "owner/name", "revision": COMMIT}
TAKEN = ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The content of the hub that this process sees, with an empty cache and no token."""
    content = Content(dict(FILES))
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").write_text("hf_stored_once")
    with serving(Hub, content) as address:
        point_to(address, monkeypatch)
        yield content


def point_to(address, monkeypatch, offline=False):
    """Do what HF_ENDPOINT and HF_HUB_OFFLINE do when the client is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)


def test_what_a_model_needs_is_taken_and_then_no_network_is_needed(hub, tmp_path, monkeypatch):
    taken = fetch_files(SOURCE, tmp_path / "out" / "model")
    assert [path.name for path in taken] == TAKEN
    assert {path.name: path.read_bytes() for path in taken} == {n: FILES[n] for n in TAKEN}
    assert not any(path.is_symlink() for path in taken)
    assert os.listdir(tmp_path / "out") == ["model"]
    downloaded = {path.split(f"{COMMIT}/")[1] for path in hub.asked() if "/resolve/" in path}
    assert downloaded == set(TAKEN)
    # no token that lies about is sent
    assert {headers.get("authorization") for _, _, headers in hub.requests} == {None}
    point_to("http://127.0.0.1:9", monkeypatch, offline=True)
    again = fetch_files(SOURCE, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in taken]
    with pytest.raises(ValueError, match=r"not be downloaded in 3 attempts\. Check .* HF_HUB_OFF"):
        fetch_files(SOURCE | {"revision": "1" * 40}, tmp_path / "other")


def test_named_files_of_a_dataset_are_taken_and_checked(hub, tmp_path):
    source = SOURCE | {"files": [{"path": "data/test.csv"}]}
    (path,) = fetch_files(source, tmp_path / "out", repo_type="dataset")
    assert path == tmp_path / "out" / "test.csv"
    assert path.read_bytes() == b"text\na\n"
    assert all("datasets/owner/name" in asked for asked in hub.asked("HEAD"))
    source["files"][0]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match=r"data/test\.csv of owner/name: expected sha256 0000"):
        fetch_files(source, tmp_path / "out", repo_type="dataset")
    for missing in ("data/tset.csv", "data/*.csv"):
        source["files"][0]["path"] = missing
        with pytest.raises(ValueError, match=r"owner/name holds no file data/.*\.csv at 3c0ffee"):
            fetch_files(source, tmp_path / "out", repo_type="dataset")


def test_a_branch_is_resolved_and_its_commit_told(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    fetch_files(SOURCE | {"revision": "main"}, tmp_path / "out")
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"main may change: it is commit {COMMIT} now" in warned[0].getMessage()


def test_a_gated_repository_needs_a_token_from_the_environment(hub, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    hub.gated = True
    with pytest.raises(ValueError, match=r"owner/name is gated, and HF_TOKEN is not set: accept"):
        fetch_files(SOURCE, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_and_secret")
    with pytest.raises(ValueError, match=r"the hub refuses the token in HF_TOKEN \(401\)") as error:
        fetch_files(SOURCE, tmp_path / "out")
    assert len(hub.asked()) <= 3  # a refusal is not asked for again
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(fetch_files(SOURCE, tmp_path / "out")) == 3
    said = f"{error.value} {caplog.text}"
    assert "hf_wrong_and_secret" not in said
    assert TOKEN not in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "1" * 40}, "owner/name has no revision 1111.*`git ls-remote http"),
        ({"hub": "owner/else"}, "owner/else does not exist, or is private and HF_TOKEN is not set"),
        ({"files": [{"path": "../x"}]}, r"'\.\./x' is no path inside owner/name"),
    ],
)
def test_what_is_not_there_is_told_at_once(hub, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fetch_files(SOURCE | change, tmp_path / "out")
    assert len([path for path in hub.asked() if "owner" in path]) <= 1
    assert not (tmp_path / "out").exists()


def test_a_repository_without_a_model_is_told(hub, tmp_path):
    hub.files = {"pytorch_model.bin": b"pickle"}
    with pytest.raises(ValueError, match="owner/name holds no model in safetensors: name its"):
        fetch_files(SOURCE, tmp_path / "out")


def test_an_interrupted_download_is_tried_again(hub, tmp_path):
    hub.cuts = [3000]
    source = SOURCE | {"files": [{"path": "model.safetensors"}]}
    assert fetch_files(source, tmp_path / "out")[0].read_bytes() == WEIGHTS
    assert len([path for path in hub.asked() if path.endswith("model.safetensors")]) == 2


def test_a_file_that_was_damaged_in_the_cache_is_brought_again(hub, tmp_path):
    (path,) = fetch_files(SOURCE | {"files": [{"path": "model.safetensors"}]}, tmp_path / "out")
    path.unlink()
    (blob,) = [p for p in (tmp_path / "cache").rglob("blobs/*") if p.stat().st_size == len(WEIGHTS)]
    blob.write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors of owner/name was damaged .* again"):
        fetch_files(SOURCE, tmp_path / "out")
    assert fetch_files(SOURCE, tmp_path / "out")[1].read_bytes() == WEIGHTS


def test_the_script_takes_endpoint_cache_and_token_from_the_environment(tmp_path):
    content = Content(dict(FILES), gated=True)
    source = SOURCE | {"files": [{"path": "data/test.csv"}]}
    code = f"from fetch_dataset import fetch_dataset; fetch_dataset({source!r}, 'out')"
    scripts = Path(__file__).resolve().parents[2] / "workflow" / "scripts"
    with serving(Hub, content) as address:
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        path = os.pathsep.join([str(scripts), str(scripts / "sources")])
        own |= {"HF_HUB_OFFLINE": "0", "PYTHONPATH": path, "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=tmp_path, env=os.environ | own, check=True, capture_output=True)
    assert (tmp_path / "out" / "test.csv").read_bytes() == b"text\na\n"
    assert (tmp_path / "home" / "hub").is_dir()
    sent = {headers.get("authorization") for _, path, headers in content.requests if "name" in path}
    assert sent == {f"Bearer {TOKEN}"}

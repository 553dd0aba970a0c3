"""Files and archives from URLs and local archives, with a server of this machine."""

import base64
import hashlib
import io
import logging
import os
import tarfile
import zipfile

import pytest
from neurondynamics.fetching import retries
from neurondynamics.fetching.archives import take_members
from neurondynamics.fetching.sources import fetch_files
from servers import Content, Files, serving

BODY = bytes(range(256)) * 16384  # 4 MiB
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def served(monkeypatch):
    """A server with one file, and the source that names it."""
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = Content({"/data/a%20b.bin": BODY})
    with serving(Files, content) as address:
        yield content, {"url": f"{address}/data/a%20b.bin?key=SECRET", "sha256": digest(BODY)}


def test_a_file_keeps_its_name_and_a_key_in_the_address_is_not_logged(served, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    _, source = served
    (path,) = fetch_files(source, tmp_path / "out" / "file")
    assert path == tmp_path / "out" / "file" / "a b.bin"
    assert path.read_bytes() == BODY
    assert os.listdir(path.parent.parent) == ["file"]
    assert "4.0 MiB" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_user_in_the_address_is_sent_to_its_server_and_told_nowhere(served, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    content, source = served
    url = source["url"].replace("http://", "http://me:pa%2F55SECRET@")
    fetch_files(source | {"url": url}, tmp_path / "out")
    given = base64.b64encode(b"me:pa/55SECRET").decode()
    assert [headers["authorization"] for _, _, headers in content.requests] == [f"Basic {given}"]
    assert "http://***@127.0.0.1" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("address", ["h:SECRET/a", "u:SECRET@h:x/a", "[SECRET/a", "u:SECRET@:80/a"])
def test_an_address_without_a_host_or_port_is_refused_without_its_secret(tmp_path, address):
    source = {"url": f"http://{address}?SECRET", "sha256": "0" * 64}
    with pytest.raises(ValueError, match="the address has no valid host or port") as caught:
        fetch_files(source, tmp_path / "out")
    assert "SECRET" not in str(caught.value) or not address.startswith("u")


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped(served, tmp_path, ranges):
    content, source = served
    content.cuts, content.ranges = [3_000_000, 100], ranges
    (path,) = fetch_files(source, tmp_path / "out")
    assert path.read_bytes() == BODY
    begun = [headers.get("range") for _, _, headers in content.requests]
    second, third = (
        ("bytes=3000000-", "bytes=3000100-") if ranges else ("bytes=3000000-", "bytes=100-")
    )
    assert begun == [None, second, third]


def test_a_server_that_is_busy_is_asked_again(served, tmp_path):
    content, source = served
    content.failures = [503, 429]
    assert fetch_files(source, tmp_path / "out")[0].read_bytes() == BODY


@pytest.mark.parametrize(
    ("failures", "message", "requests"),
    [
        ([404], r"data/a%20b\.bin: the server says 404", 1),
        ([403], "the server says 403", 1),
        ([500] * 3, r"could not be downloaded in 3 attempts\. .* The server says 500", 3),
    ],
)
def test_what_the_server_says_is_told(served, tmp_path, failures, message, requests):
    content, source = served
    content.failures = failures
    with pytest.raises(ValueError, match=message) as error:
        fetch_files(source, tmp_path / "out")
    assert "SECRET" not in str(error.value)
    assert len(content.requests) == requests
    assert list(tmp_path.iterdir()) == []


def test_another_content_is_refused_and_leaves_nothing(served, tmp_path):
    _, source = served
    with pytest.raises(ValueError, match=f"expected sha256 {'0' * 64}, found {digest(BODY)}") as e:
        fetch_files(source | {"sha256": "0" * 64}, tmp_path / "out")
    assert "SECRET" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_and_a_wrong_address_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = {"url": "http://127.0.0.1:9/a.bin", "sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"3 attempts.*refused"):
        fetch_files(source, tmp_path / "out")
    for url in ("file:///etc/passwd", "ftp://h/a", "https://h/", "https:///a"):
        with pytest.raises(ValueError, match=r"only http and https|does not end in the name"):
            fetch_files(source | {"url": url}, tmp_path / "out")


def test_a_disk_that_is_too_small_is_told_before_the_download(small_disk, served):
    content, source = served
    with pytest.raises(OSError, match=r"writing .*/file needs 4\.0 MiB and 2\.0 MiB are free"):
        fetch_files(source, small_disk / "file")
    assert len(content.requests) == 1
    assert list(small_disk.iterdir()) == []


def pack(path, members: dict[str, bytes]):
    """Write an archive of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"]


@pytest.mark.parametrize("kind", KINDS)
def test_named_files_come_out_of_an_archive(served, tmp_path, kind):
    content, source = served
    archive = pack(tmp_path / kind, {"x/one.csv": b"1", "x/two.csv": b"2", "x/three.csv": b"3"})
    body = content.files[f"/{kind}"] = archive.read_bytes()
    url = source["url"].replace("data/a%20b.bin?key=SECRET", kind)
    files = [{"path": "x/two.csv"}, {"path": "x/one.csv", "sha256": digest(b"1")}]
    source = {"url": url, "sha256": digest(body), "files": files}
    taken = fetch_files(source, tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in taken] == [
        ("two.csv", b"2"),
        ("one.csv", b"1"),
    ]
    assert len(os.listdir(tmp_path / "out")) == 2
    files[0]["path"] = "x/too.csv"
    with pytest.raises(
        ValueError, match=rf"{kind} holds no file x/too\.csv; near it are x/two\.csv"
    ):
        fetch_files(source, tmp_path / "out")
    files[0] = {"path": "x/two.csv", "sha256": digest(b"1")}
    with pytest.raises(ValueError, match=rf"x/two\.csv of {kind}: expected sha256"):
        fetch_files(source, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_comes_out_of_a_local_archive_from_whatever_folder(tmp_path, kind):
    """Neither code, pickles nor what lies deeper is taken, and links are not followed."""
    members = {f"mine/{name}": content for name, content in MODEL.items()}
    members |= {"mine/own.py": b"x", "mine/a.bin": b"x", "mine/old/config.json": b"x", "note": b"x"}
    archive = pack(tmp_path / kind, members)
    if kind == "a.tar":
        with tarfile.open(archive, "a") as more:
            link = tarfile.TarInfo("mine/README.md")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
            more.addfile(link)
    taken = fetch_files({"path": str(archive)}, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in taken} == MODEL
    whole = archive.read_bytes()
    archive.write_bytes(whole[: 700 if kind == "a.tar" else len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{kind} is damaged"):
        fetch_files({"path": str(archive)}, tmp_path / "out")


def test_a_checkpoint_is_no_archive_though_it_is_a_zip_file(tmp_path):
    pack(tmp_path / "a.zip", MODEL).rename(tmp_path / "a.ckpt")
    (taken,) = fetch_files({"path": str(tmp_path / "a.ckpt")}, tmp_path / "out")
    assert taken.read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_an_encrypted_archive_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "e.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag of a password, in both headers
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^e\.zip is encrypted \(.*a\.txt.*\): unpack it"):
        take_members(path, ["a.txt"], tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"^e\.zip is a pointer of git-lfs, not .*git lfs pull"):
        take_members(path, ["a.txt"], tmp_path)

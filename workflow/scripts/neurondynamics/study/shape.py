"""The shape of the study's model, from which memory follows: stated, or read from its config.json.

Exact numbers need transformers, which would make every parse slow. So the main process lets another
process work them out, once, and keeps them under resources/shapes: in a file named by the digest of
the config.json. Later parses, and those of every job, read only that. A config.json of the hub is
kept there too; that of a branch or tag stays what it was when it was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from neurondynamics.data.files import replacing
from neurondynamics.study.costs import HEADS, SHAPE

NAME = "config.json"
RESOURCES = Path("resources")  # in the working directory
SCRIPTS = Path(__file__).resolve().parents[2]
BESIDE = ("positions", *HEADS)  # is read with the shape, and not needed
BY_HAND = f"or state {', '.join(SHAPE)} under `model`"


def with_shape(config: dict, main_process: bool) -> dict:
    """Return a configuration whose model has a dtype and all of its shape; what is stated stays.

    Where the shape is read, `heads` and `head_width` are too, and `positions`: how many tokens the
    model reads, or None.

    Raises ValueError, with the key, if what is not stated cannot be read. Only the main process
    asks the hub, and works out what is not known yet.
    """
    model = config["model"]
    missing = [key for key in SHAPE if key not in model]
    try:
        found = _found(model, main_process) if missing else _stated_positions(model)
    except OSError as error:  # which names the path
        raise ValueError(
            f"model.source: the model's shape cannot be read or kept: {error}. Correct that, "
            f"{BY_HAND}."
        ) from error
    more = (key for key in (*missing, *BESIDE) if key in found and key not in model)
    filled = model | {key: found[key] for key in more}
    return {**config, "model": {**filled, "dtype": model.get("dtype", "float32")}}


def _stated_positions(model: dict) -> dict[str, int]:
    """Return the `positions` that the config.json of a local folder states, if it does.

    They stand there under one of two names; biases by distance need none.
    """
    folder = model.get("source", {}).get("path")
    stated = _mapping(Path(folder, NAME)) if folder and Path(folder).is_dir() else {}
    for key in () if stated.get("alibi") else ("max_position_embeddings", "n_positions"):
        if type(stated.get(key)) is int and stated[key] > 0:
            return {"positions": stated[key]}
    return {}


def _found(model: dict, main_process: bool) -> dict[str, int | None]:
    described = _description(model, main_process)
    digest = hashlib.sha256(described.read_bytes()).hexdigest()
    known = RESOURCES / "shapes" / f"{digest}.json"
    kept = _mapping(known)
    whole = all(type(kept.get(key)) is int and kept[key] > 0 for key in SHAPE)
    if whole and set(BESIDE) <= set(kept):
        return kept
    if not main_process:
        raise _not_prepared(known)
    shape = worked_out(described.parent)
    with replacing(known) as temporary:
        temporary.write_text(json.dumps(shape), encoding="utf-8")
    return shape


def _mapping(path: Path) -> dict:
    """Return what a file in JSON holds; {} if it is not there, is damaged or holds no mapping."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _description(model: dict, main_process: bool) -> Path:
    """Return the config.json of a model."""
    source = model["source"]
    in_folder = Path(source["path"], NAME) if "path" in source else None
    if in_folder and in_folder.is_file():
        return in_folder
    of_hub = [file["path"] for file in source.get("files", [{"path": NAME}])]
    of_hub = [path for path in of_hub if PurePosixPath(path).name == NAME]
    if "hub" in source and of_hub:
        return _from_hub(source["hub"], source["revision"], of_hub[0], main_process)
    fetched = RESOURCES / "models" / model["name"] / NAME
    if fetched.is_file():
        return fetched
    if in_folder and not in_folder.parent.exists():
        raise ValueError(f"model.source.path: there is no {in_folder.parent}")
    if in_folder and in_folder.parent.is_dir():
        raise ValueError(
            f"model.source.path: there is no {NAME} in {in_folder.parent}; name the folder of a "
            "whole model, as save_pretrained makes it"
        )
    missing = ", ".join(key for key in SHAPE if key not in model)
    raise ValueError(
        f"model: these keys are missing: {missing}. They are read from the {NAME} of a folder "
        "or of a repository on the hub, and this source has none before it is fetched: state them "
        "(`python workflow/new_study.py` does, for a GGUF file of this machine; of any other "
        "source, fetching the model says what is wrong and what is right)"
    )


def _from_hub(repository: str, revision: str, path: str, main_process: bool) -> Path:
    folder = RESOURCES / "shapes" / f"{repository.replace('/', '--')}@{quote(revision, safe='')}"
    kept = folder / quote(path.removesuffix(NAME), safe="") / NAME
    if not _mapping(kept):
        if not main_process:
            raise _not_prepared(kept)
        from neurondynamics.fetching.hub import download_snapshot  # which takes a while to import

        try:
            fetched = download_snapshot(repository, revision, "model", [path]) / path
            with replacing(kept) as temporary:
                shutil.copyfile(fetched, temporary)
        except FileNotFoundError as error:
            raise ValueError(
                f"model.source.hub: {repository} has no {path} at {revision}: name another, "
                f"{BY_HAND}"
            ) from error
        except ValueError as error:
            raise ValueError(f"model.source.hub: {error} {BY_HAND.capitalize()}.") from error
    return kept


def worked_out(folder: Path, gguf_file: str | None = None) -> dict[str, int | None]:
    """Return the shape that a folder's config.json, or a GGUF file in it, describes.

    Raises ValueError with the key `model.source` and the reason: the file cannot be read, it
    describes no model that can be studied, or this interpreter has no transformers.
    """
    path = os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "neurondynamics.lm.shape", str(folder), *filter(None, [gguf_file])],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    described = folder / (gguf_file or NAME)
    if done.returncode:  # such as without transformers, where rules have environments of their own
        problem = (done.stderr.strip().splitlines() or ["its process was stopped"])[-1]
        raise ValueError(
            f"model.source: the shape that {described} describes is worked out with torch and "
            f"transformers, which failed in {sys.executable}: {problem}. Install them there, "
            f"{BY_HAND}."
        )
    found = json.loads(done.stdout)
    if "unreadable" in found:
        raise ValueError(
            f"model.source: {described} cannot be read: {found['unreadable']}. Correct it, "
            f"{BY_HAND}."
        )
    if "refused" in found:
        raise ValueError(
            f"model.source: the model that {described} describes cannot be studied: "
            f"{found['refused']}"
        )
    return found


def _not_prepared(path: Path) -> ValueError:
    trouble = "damaged" if path.exists() else "missing"
    return ValueError(
        f"model.source: {path} is {trouble}, which the study's main process makes before "
        f"any job: start the study again, {BY_HAND}"
    )

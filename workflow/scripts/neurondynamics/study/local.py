"""What lies on this machine, read before any job: whatever a job would refuse, all at once.

Each file is read by the reader that its job uses, imported where there is something to read. What
took a while and was right is noted under resources/checked, by size and time of the files,
so that a later start does not read it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from neurondynamics.data.prompts import Prompt, partition, read_dataset
from neurondynamics.data.texts import read_rows
from neurondynamics.fetching.folders import check_folder
from neurondynamics.study.interventions import files_in
from neurondynamics.study.sources import (
    CORPORA,
    datasets_of,
    is_result,
    local_files,
    origins_of,
    sources_in,
)
from neurondynamics.study.stage import SPLITS

CHECKED = Path("resources", "checked")  # in the working directory
HASHED = 1e9  # bytes; a larger file is compared with its sha256 when it is fetched
QUICK = 0.2  # seconds; what is read so fast is read each time


class Check(NamedTuple):
    """What a key says of files: `reads` raise ValueError or OSError for what is wrong with them.

    `said` is all that the outcome depends on beside the files. They may be missing where `made`,
    the copy or result that a job makes of them, is there.
    """

    key: str
    paths: list[str]
    said: Any
    reads: list[Callable[[], object]]
    made: str = ""


def problems(config: dict, absent: Collection[str] = ()) -> Iterator[str]:
    """Yield what is wrong with the files of this machine that a study names, a line each.

    Those that are `absent` may be missing.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what readers count belongs into the logs of jobs
    try:
        yield from _problems(config, absent)
    finally:
        logging.disable(before)


def _problems(config: dict, absent: Collection[str]) -> Iterator[str]:
    datasets = {name: one for name, one in config["datasets"].items() if not origins_of(one)}
    splits = {name: config["prompts"][name] for name in SPLITS}
    found: dict[str, list[Prompt] | None] = {}

    def texts_of(name: str) -> list[Prompt]:
        if name not in found:
            found[name] = None  # and none it stays where it cannot be read
            found[name] = _texts(name, datasets[name])
        return found[name]

    checks = [*_datasets(config, datasets, texts_of), *_sources(config), *_selections(config)]
    for check in checks:
        yield from _outcome(check, absent)
    used = sorted(datasets.keys() & set().union(*map(datasets_of, splits.values())))
    paths = [path for name in used for path in _paths(datasets[name])]
    if used and all(map(_is_file, paths)) and all(found.get(name, True) for name in used):
        whole = {name: one for name, one in splits.items() if datasets_of(one) <= {*used}}

        def share_out() -> None:
            partition({name: texts_of(name) for name in used}, whole, config["seed"])

        said = [{name: datasets[name] for name in used}, splits, config["seed"]]
        for line in _outcome(Check("", paths, said, [share_out]), absent):
            yield line.removeprefix(": ")


def _outcome(check: Check, absent: Collection[str]) -> Iterator[str]:
    try:
        missing = [path for path in check.paths if not Path(path).is_file()]
        made = bool(check.made) and Path(check.made).exists()
        for path in () if made else missing:
            # which study is to be run before this one is said where its results are asked for
            if path not in absent and not is_result(path):
                folder = ": it is a folder" if Path(path).is_dir() else ""
                yield f"{check.key}: there is no file {path}{folder}"
        if missing:
            return
        noted = CHECKED / _digest(check)
        if noted.exists():
            return
    except OSError as error:  # such as a name of more than 255 bytes
        yield f"{check.key}: {error.strerror}: {error.filename}"
        return
    start, right = time.monotonic(), True
    for read in check.reads:
        try:
            read()
        except (OSError, ValueError) as error:
            right = False
            yield f"{check.key}: {error}"
    if right and time.monotonic() - start > QUICK:
        with suppress(OSError):  # a folder that cannot be written to: it is read each time
            noted.parent.mkdir(parents=True, exist_ok=True)
            noted.touch()


def _digest(check: Check) -> str:
    files = [Path(path).stat() for path in check.paths]
    stated = [(file.st_size, file.st_mtime_ns) for file in files]
    whole = json.dumps([check.key, check.paths, check.said, stated], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _is_file(path: str) -> bool:
    with suppress(OSError):  # such as a name of more than 255 bytes
        return Path(path).is_file()
    return False


def _key(dataset: str) -> str:
    return f"datasets.{dataset}.files"


def _paths(dataset: dict) -> list[str]:
    return [file["path"] for file in dataset["files"]]


def _texts(name: str, dataset: dict) -> list[Prompt]:
    category = dataset.get("category_field")
    fields = (dataset["format"], dataset.get("text_field", "text"), category, dataset.get("where"))
    return read_dataset(name, _paths(dataset), *fields)


def _datasets(config: dict, datasets: dict, texts_of: Callable) -> Iterator[Check]:
    """Yield the checks of datasets that the study uses, each read as its rules do."""
    pairs, corpus = config["preferences"], config["corpus"]
    texts = {name for split in SPLITS for name in datasets_of(config["prompts"][split])}
    texts |= {corpus[key] for key in CORPORA if key in corpus}
    texts |= {pairs["dataset"]} if pairs["method"] == "steered" else set()
    ready = {pairs["dataset"]} if pairs["method"] == "ready" else set()
    named = {name: one for name, one in config["directions"].items() if "label" in one}
    labelled = {name: one for name, one in named.items() if one["texts"] in datasets}
    labels = {one["texts"] for one in labelled.values()}
    for name in sorted(datasets.keys() & {*texts, *labels, *ready}):
        dataset = datasets[name]
        reads = [partial(_compare_sum, file) for file in dataset["files"]]
        if name in texts and dataset["format"] != "mediawiki":
            reads.append(partial(texts_of, name))
        if name in ready:
            reads.append(partial(_rows, name, dataset))
        said, made = [dataset, name in texts, name in ready], f"resources/datasets/{name}"
        yield Check(_key(name), _paths(dataset), said, reads, made)
    for name, direction in labelled.items():
        dataset, label = datasets[direction["texts"]], direction["label"]
        if all(map(_is_file, _paths(dataset))):
            read = partial(_read_labels, direction["texts"], dataset, label)
            yield Check(f"directions.{name}.label", _paths(dataset), [dataset, label], [read])


def _compare_sum(file: dict) -> None:
    from neurondynamics.fetching.checksums import verify

    path = Path(file["path"])
    if "sha256" in file and path.stat().st_size <= HASHED:
        verify(path, file["sha256"], file["path"])


def _rows(name: str, dataset: dict) -> list:
    return read_rows(name, _paths(dataset), dataset["format"], dataset.get("where"))


def _read_labels(name: str, dataset: dict, label: str) -> None:
    from neurondynamics.analysis.labelled import labels_of

    rows = _rows(name, dataset)
    labels_of([""] * len(rows), rows, label)


def _sources(config: dict) -> Iterator[Check]:
    """Yield the checks of models, scorers and directions that are brought from this machine."""
    lexicons = [one["source"] for one in config["scorers"].values() if one["kind"] == "lexicon"]
    for key, source in sources_in({k: v for k, v in config.items() if k != "datasets"}):
        if "path" in source and not key.startswith("directions."):
            terms = [partial(_read_lexicon, source["path"])] if source in lexicons else []
            stage, name = key.split(".")[:2]
            if stage in ("model", "tuned") and Path(source["path"]).is_dir():
                terms = [partial(check_folder, source["path"])]
            made = f"resources/models/{config['model']['name'] if stage == 'model' else name}"
            made = f"resources/scorers/{name}" if stage == "scorers" else made
            yield Check(f"{key}.path", local_files(source), source in lexicons, terms, made)
    for name, direction in config["directions"].items():
        if "path" in direction:
            made = f"results/{config['model']['name']}/base/directions/{name}.safetensors"
            yield Check(f"directions.{name}.path", [direction["path"]], None, [], made)


def _read_lexicon(path: str) -> None:
    from neurondynamics.evaluation.lexicon import read_terms

    read_terms(path)


def _selections(config: dict) -> Iterator[Check]:
    # where the shape cannot be read, that is said beside what else is wrong
    shape = {key: config["model"].get(key, math.inf) for key in ("layers", "neurons")}
    for key, path in files_in(config["experiments"]):
        yield Check(key, [path], shape, [partial(_read_selection, path, **shape)])


def _read_selection(path: str, layers: int, neurons: int) -> None:
    from neurondynamics.interventions.selection import read_pairs

    pairs = read_pairs(Path(path))
    for layer, neuron in pairs.itertuples(index=False):
        if not (0 <= layer < layers and 0 <= neuron < neurons):
            raise ValueError(
                f"{path}: there is no neuron {neuron} in layer {layer}; the model has layers 0 to "
                f"{layers - 1}, each with neurons 0 to {neurons - 1}"
            )
    if pairs.empty or pairs.duplicated().any():
        wrong = "no neuron is listed" if pairs.empty else "a neuron is listed twice"
        raise ValueError(f"{path}: {wrong}")

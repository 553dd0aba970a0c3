"""What a file was made from, recorded in it, and held against what its reader expects.

Every file of a study that has room for it records the *place* it was written to, from `results` on:
one that lies in the place of another, such as the base model's activations where the tuned model's
should be, is refused when it is read. Where a study's folder lies does not matter, and files
outside of `results` have no place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from neurondynamics.data.files import unusable

UNRECORDED: Mapping = MappingProxyType({})  # nothing is recorded, or nothing expected
ROOT = "results"
PLACE = "place"
OWN = (PLACE, "shard", "packages")  # of what is recorded, all else is alike in all shards
THING = ("experiment", "scorer", "split")  # that tell things of one kind apart


def place_of(path: str | Path) -> dict[str, str]:
    """Return what a file records of its place: nothing outside of `results`."""
    parts = Path(path).parts
    if ROOT not in parts:
        return {}
    start = len(parts) - 1 - parts[::-1].index(ROOT)
    return {PLACE: "/".join(parts[start:])}


def check_place(path: str | Path, recorded: Mapping) -> None:
    """Raise ValueError if a file was written to another place than the one where it lies."""
    here, written = place_of(path).get(PLACE), recorded.get(PLACE)
    if None not in (here, written) and here != written:
        raise unusable(path, f"is not the file that was written there, but {written}")


def plain(value: object) -> str | int | float:
    """Return a value as it is recorded: nested ones as JSON."""
    return value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)


def check_made(path: str | Path, recorded: Mapping, expected: Mapping) -> None:
    """Raise ValueError, naming what differs, if a file records something else than is expected.

    What it does not record is not compared.
    """
    for name, value in expected.items():
        if name in recorded and recorded[name] != plain(value):
            what = name.replace("_", " ")
            raise unusable(
                path, f"was made from other things: its {what} is {recorded[name]}, not {value}"
            )


def check_weights(path: str | Path, recorded: Mapping, digest: str) -> None:
    """Raise ValueError if an attribution is of other models than the one with this digest."""
    models = [recorded[name] for name in ("base_weights", "tuned_weights") if name in recorded]
    if models and digest not in models:
        raise unusable(path, "was made from other models than the one that is studied")


def check_shards(
    paths: Sequence[str | Path], recorded: Sequence[Mapping], whole: bool = True
) -> None:
    """Raise ValueError if files are no shards of things, or one is given twice or is missing.

    Files are of one thing that record the same experiment, scorer and split, or none. Shards are
    numbered as in "1-of-2"; what records no number is not counted. `whole`: all of them should be
    there.
    """
    things: dict[tuple, list[tuple]] = {}
    for path, of_one in zip(paths, recorded, strict=True):
        thing = tuple(of_one.get(name) for name in THING)
        things.setdefault(thing, []).append((path, of_one))
    for files in things.values():
        first = {name: value for name, value in files[0][1].items() if name not in OWN}
        seen = set()
        for path, of_one in files:
            check_made(path, of_one, first)
            shard = of_one.get("shard")
            if shard in seen:
                raise unusable(path, f"holds the shard {shard}, which another file holds too")
            seen |= {shard} - {None}
        if whole and seen and len(seen) != int(max(seen).rpartition("-")[2]):
            raise unusable(files[0][0], f"is of the shards {', '.join(sorted(seen))}: others lack")

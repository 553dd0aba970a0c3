"""Print what a study will need of memory, time and disk, before anything of it runs."""

from neurondynamics.runtime import start_log

if __name__ == "__main__":
    start_log(snakemake.log[0])  # before the heavy imports, so that their failure is logged

import itertools
import logging
import time

import pandas as pd
import torch
from neurondynamics.lm.loading import set_threads

logger = logging.getLogger(__name__)

ROWS = 1024  # tokens that are read at once
SECONDS = 0.5  # that a measurement takes
MATRICES = 64  # of a layer's size that a measurement goes through: more than a cache holds

TEXT = """\
{name}: {layers} layers of {neurons:,} neurons, {parameters:,} parameters in {dtype}

{rules}

memory  what a job should need, in MB; of a model on a GPU, mostly the GPU's
mem_mb  what it asks for: {head_room} times as much, and more when it is tried again
Rules that are not listed make tables and figures: seconds and {light:,} MB each.
{time}

{files}
"""
MEASURED = """\
Times are for this machine ({where}): {dtype} matrix products of the model's size just ran
at {reading:,.0f} GFLOP/s, and at {decoding:,.0f} with the rows of a batch. What a model reaches of
that is taken from the default study on two CPU cores, and prompts are counted at full length."""
UNKNOWN = "No times are given: the study asks for a GPU, and there is none here to measure."


def estimate(
    model: dict,
    device: str,
    batch_size: int,
    rows: list[dict],
    light: int,
    head_room: float,
    files: dict[str, tuple[int, int]],
    threads: int,
) -> None:
    """Log the needs of a study, and so print them.

    All but `threads` is what study.estimate.needs returns. The times are those of this machine: its
    speed is measured, on a GPU if the study would use one here. Where the study asks for a GPU and
    none is here, no times are given.
    """
    set_threads(threads)
    speeds, said = None, UNKNOWN
    if torch.cuda.is_available() or device != "cuda":
        on_gpu = torch.cuda.is_available() and device != "cpu"
        speeds = [matrix_speed(model, number, on_gpu) for number in (ROWS, batch_size)]
        said = MEASURED.format(
            where=torch.cuda.get_device_name() if on_gpu else f"{threads} threads",
            dtype=model["dtype"],
            reading=speeds[0] / 1e9,
            decoding=speeds[1] / 1e9,
        )
    text = TEXT.format(
        **model,
        rules=rules_table(rows, speeds).to_string(index=False),
        head_room=head_room,
        light=light,
        time=said,
        files=files_table(files).to_string(index=False),
    )
    logger.info("what the study needs\n\n%s", text)


def matrix_speed(model: dict, rows: int, on_gpu: bool) -> float:
    """Return the FLOP per second of the fastest (rows, width) x (width, neurons) product.

    `model` is the configuration's. The fastest and not the mean: something else may be running.
    """
    form = {"device": "cuda" if on_gpu else "cpu", "dtype": getattr(torch, model["dtype"])}
    width, neurons = model["width"], model["neurons"]
    matrices = [torch.randn(width, neurons).to(**form) for _ in range(MATRICES)]
    states = torch.randn(rows, width).to(**form)
    fastest = float("inf")
    end = time.perf_counter() + SECONDS
    for matrix in itertools.cycle(matrices):
        start = time.perf_counter()
        (states @ matrix)[0, 0].item()  # reading a number waits for a GPU
        now = time.perf_counter()
        fastest = min(fastest, now - start)
        if now > end:
            return 2 * rows * width * neurons / fastest


def rules_table(rows: list[dict], speeds: list[float] | None) -> pd.DataFrame:
    """Return a row for each rule that holds a model or scores texts, and one of their sum."""
    jobs = pd.DataFrame(rows)
    many, few = speeds or (float("nan"), float("nan"))
    jobs["seconds"] += jobs.pop("many") / many + jobs.pop("few") / few
    total = jobs.assign(rule="one after another")
    sums = {"jobs": "sum", "memory": "max", "mem_mb": "max", "seconds": _sum}
    table = pd.concat([jobs, total]).groupby("rule", sort=False).agg(sums).reset_index()
    table["each"] = (table.seconds / table.jobs).map(_duration)
    table["together"] = table.seconds.map(_duration)
    return table.drop(columns="seconds").round({"memory": 0})


def files_table(kinds: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """Return a row for each kind of large file, and one of their sum."""
    rows = [
        (kind, number, f"{size / 1e9:.3f}", number * size / 1e9)
        for kind, (number, size) in kinds.items()
        if number
    ]
    table = pd.DataFrame(rows, columns=["files", "number", "GB each", "GB"])
    table.loc[len(table)] = ["together", table["number"].sum(), "", table["GB"].sum()]
    return table.round(3)


def _sum(values: pd.Series) -> float:
    return values.sum(skipna=False)  # the sum of what is unknown is unknown


def _duration(seconds: float) -> str:
    """Write seconds for a person; NaN, which is unknown, as a dash."""
    for size, unit in ((3600, "h"), (60, "min"), (0, "s")):
        if seconds >= 1.5 * size:
            return f"{seconds / max(size, 1):.{1 if unit == 'h' else 0}f} {unit}"
    return "-"


if __name__ == "__main__":
    estimate(threads=snakemake.threads, **snakemake.params.study)

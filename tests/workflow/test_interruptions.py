"""Whatever kills a study, running it again completes it, with the same results to the byte.

By default two kills of a part of the study: tuning, attribution and an experiment. With
NEURONDYNAMICS_KILLS=20 in the environment all of it is killed twenty times; NEURONDYNAMICS_SEED
draws other moments.
"""

import os
import random
import re
import shutil
import threading
import time
from contextlib import contextmanager

import h5py
import psutil
from studies import EXPORTED, Study

KILLS = int(os.environ.get("NEURONDYNAMICS_KILLS", "2"))
PART = ("tables/groups.csv", "experiments/keys/generations/1-of-2.parquet")
WHOLE = KILLS > 2
TARGETS = [] if WHOLE else [f"results/tiny/dpo/{name}" for name in PART]
DONE_ANEW = ("results", "resources") if WHOLE else ("results/tiny/dpo",)
SEED = int(os.environ.get("NEURONDYNAMICS_SEED", "0"))
RESULTS = {".csv", ".parquet", ".svg", ".png", ".json", ".jsonl", ".safetensors", ".h5"}
EXTRA = re.compile(rf"results/tiny/(brought|dpo-seed1)/|/seed(s|_overlap|_shares)\.|{EXPORTED}")
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}")


def results(study: Study) -> dict[str, bytes]:
    """Return the content of every result of the study itself, by path."""
    paths = [path for path in study.path("results").rglob("*") if path.suffix in RESULTS]
    named = {str(path.relative_to(study.folder)): path for path in paths if path.is_file()}
    return {name: path.read_bytes() for name, path in named.items() if not EXTRA.search(name)}


def leftovers(study: Study) -> list[str]:
    """Return what writers that were killed have left beside their targets."""
    places = [study.path(top) for top in ("results", "resources", "logs", "benchmarks")]
    found = [path for place in places for path in place.rglob(".*")]
    return [str(path) for path in found if LEFTOVER.fullmatch(path.name)]


@contextmanager
def running(study: Study, *targets: str):
    """Start the study in the background; at last, wait for all that still runs of it."""
    process = study.start("--cores", "2", *targets)
    # what jobs print has to go somewhere, also when Snakemake no longer lives
    reader = threading.Thread(target=process.stdout.read, daemon=True)
    reader.start()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def jobs(snakemake: psutil.Process) -> list[psutil.Process]:
    """Return the processes of the rules that run."""
    found = []
    for child in snakemake.children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.Error:  # it has just ended
            continue
        if "python" in child.name() and any("scripts" in part for part in command):
            found.append(child)
    return found


def wait_for_job(snakemake: psutil.Process) -> psutil.Process | None:
    """Return a job once there is one; None if the study ends before."""
    while snakemake.is_running() and snakemake.status() != psutil.STATUS_ZOMBIE:
        if found := jobs(snakemake):
            return found[0]
        time.sleep(0.05)
    return None


def run_and_kill(study: Study, moment: float, victim: str) -> list[psutil.Process] | None:
    """Run a study and kill it some seconds after its first job began, while a job is running.

    The victim is `job`, as when the system takes its memory back, or `snakemake` alone, whose jobs
    go on: they are returned. None if the study ended before.
    """
    with running(study, *TARGETS) as snakemake:
        wait_for_job(snakemake)
        time.sleep(moment)
        job = wait_for_job(snakemake)
        if job is None:
            return None
        if victim == "job":
            job.kill()
            assert snakemake.wait(60) != 0
            return []
        orphans = snakemake.children(recursive=True)
        snakemake.kill()
        snakemake.wait(60)
    # what Snakemake tells to do
    assert "--unlock" in study.snakemake().stdout
    study.run("--unlock")
    return orphans


def check_same(study: Study, finished: Study, targets: list[str] | None = None) -> None:
    """Compare all results that are there, among them the targets: by default, everything."""
    found, expected = results(study), results(finished)
    assert found.keys() <= expected.keys()
    assert set(targets or expected) <= found.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def forget(study: Study) -> None:
    """Remove what is done anew."""
    for folder in DONE_ANEW:
        shutil.rmtree(study.path(folder))


def test_killed_at_random_moments_a_study_completes_with_the_same_results(study, finished):
    draw, orphans, kills = random.Random(SEED), [], 0
    forget(study)
    while kills < KILLS:
        victim = ("snakemake", "job")[kills % 2]
        left = run_and_kill(study, draw.uniform(0, 10), victim)
        if left is None:  # there is nothing left to kill: once more
            check_same(study, finished, TARGETS)
            forget(study)
        else:
            orphans += left
            kills += 1
    study.run(*TARGETS)
    psutil.wait_procs(orphans, timeout=120)
    check_same(study, finished, TARGETS)
    assert study.plan(*TARGETS) == []
    assert leftovers(study) == []


def test_a_second_run_is_refused_and_harms_nothing(study, finished):
    study.path("results/tiny/dpo/tables/layers.csv").unlink()
    with running(study) as snakemake:
        assert wait_for_job(snakemake)
        snakemake.suspend()  # else it may have ended before the second looks
        refused = study.snakemake()
        snakemake.resume()
        assert refused.returncode != 0
        assert "cannot be locked" in refused.stdout
        assert snakemake.wait(120) == 0
    check_same(study, finished)


def test_a_damaged_store_is_named_with_the_command_that_rebuilds_it(study, finished):
    store = sorted(study.path("results/tiny/base/activations/base").glob("*.h5"))[-1]
    with h5py.File(store) as file:
        place = file["mean/01"].id.get_chunk_info(0).byte_offset
    content, times = bytearray(store.read_bytes()), store.stat()
    content[place + 5] ^= 0b1000
    store.write_bytes(content)
    os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns))  # a bad disk tells nobody
    assert study.plan() == []
    failed = study.snakemake("--force", "results/tiny/dpo/tables/layers.csv")
    assert failed.returncode != 0
    name = str(store.relative_to(study.folder))
    assert f"{name} cannot be read or is damaged" in failed.stdout
    (options,) = set(re.findall(r"snakemake --cores all (--force \S+)", failed.stdout))
    study.run(*options.split())
    assert store.read_bytes() != content
    study.run()
    check_same(study, finished)

"""The tiny study on a real SLURM, through the profile, with jobs cancelled on the way."""

import random
import re
import time
from collections import Counter, defaultdict
from contextlib import suppress
from datetime import datetime

import h5py
import numpy as np

WRITTEN = "results/tiny/dpo/experiments/keys/generations"
TARGETS = ("results/tiny/dpo/tables/groups.csv", f"{WRITTEN}/1-of-2.parquet")
PROFILE = "workflow/profiles/slurm"
IMPATIENT = {  # the profile spares a controller that others use; this one is ours
    "slurm-init-seconds-before-status-checks": "1",
    "seconds-between-status-checks": "1",
    "max-status-checks-per-second": "10",
}
CANCELLED = 2  # jobs, at random moments
GPU_RULES = {
    *("sample_continuations", "tune_model", "extract_features", "run_experiment"),
    *("capture_base_activations", "capture_activations", "measure_change"),
}
FIRST_SHARDS = {"sample_continuations", "capture_base_activations"}  # they need prompts alone
LOCAL_RULES = {"fetch_model", "fetch_dataset", "fetch_scorer"}


def test_the_study_on_a_cluster(cluster, fresh, finished, tmp_path):
    """One test, so that the cluster is started and the study is run by one process alone."""
    study = fresh.copy(tmp_path / "study")
    output, cancelled = submit(study, cluster)
    everything = cluster.jobs()
    jobs = defaultdict(list)
    for job in everything:
        if job["JobState"] == "COMPLETED":
            jobs[rule_of(job)].append(job)
    check_that_every_rule_ran_as_a_job(output, jobs)
    check_that_jobs_had_what_their_rules_ask_for(output, jobs)
    check_that_a_gpu_belonged_to_one_job_at_a_time(study, jobs)
    check_that_shards_ran_side_by_side(everything)
    check_that_jobs_were_cancelled(cancelled, everything)
    check_that_results_are_those_of_a_local_run(study, finished)
    check_that_nothing_half_written_is_left(study)


def submit(study, cluster) -> tuple[str, list[str]]:
    """Run the study on the cluster; return what snakemake printed and which jobs were cancelled."""
    study.change("device", "auto")  # asks for GPUs; without CUDA the rules compute on the CPU
    options = [f"--{key}={value}" for key, value in IMPATIENT.items()]
    options += ["--workflow-profile", PROFILE, "--slurm-no-account"]
    options += ["--slurm-status-command", "squeue"]
    output, cancelled = "", []
    for _ in range(CANCELLED + 1):  # a job that is cancelled thrice fails for good
        process = study.start(*TARGETS, *options, environment=cluster.environment)
        cancelled += cancel_at_random(cluster, process, CANCELLED - len(cancelled))
        printed, _ = process.communicate(timeout=600)
        output += printed
        if process.returncode == 0:
            return output, cancelled
    raise AssertionError(output[-8000:])


def cancel_at_random(cluster, process, number):
    """Cancel running jobs while snakemake runs, and return their ids."""
    chance = random.Random(0)
    cancelled = []
    while process.poll() is None and len(cancelled) < number:
        time.sleep(chance.uniform(2, 12))
        running = cluster("squeue", "--noheader", "--states=R", "-o", "%i").split()
        if running:
            chosen = chance.choice(running)
            with suppress(AssertionError):  # of one that has ended in the meantime
                cluster("scancel", "--signal=KILL", "--full", chosen)
                cancelled.append(chosen)
    return cancelled


def rule_of(job) -> str:
    (rule,) = re.findall(r"rule_(\w+?)(?:_wildcards_|$)", job["Comment"])
    return rule


def check_that_every_rule_ran_as_a_job(output, jobs):
    finished_rules = Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", output, re.M))
    for rule in LOCAL_RULES:
        assert finished_rules.pop(rule) >= 1
    assert finished_rules == {rule: len(ran) for rule, ran in jobs.items()}
    assert set(jobs) >= GPU_RULES


def check_that_jobs_had_what_their_rules_ask_for(output, jobs):
    asked = defaultdict(list)  # by rule, of every attempt
    blocks = re.findall(r"^rule (\w+):\n(?: {4}.*\n)*? {4}resources: (.*)$", output, re.M)
    for rule, resources in blocks:
        asked[rule].append(dict(pair.split("=") for pair in resources.split(", ") if "=" in pair))
    for rule, ran in jobs.items():
        for job in ran:
            given = dict(pair.split("=") for pair in job["TRES"].split(","))
            hours, minutes, _ = map(int, job["TimeLimit"].split(":"))
            assert {int(one["runtime"]) for one in asked[rule]} == {60 * hours + minutes}, rule
            assert job.get("TresPerJob") == ("gres:gpu:1" if rule in GPU_RULES else None), rule
            assert given["cpu"] == "1", rule
            # an attempt after a cancelled one asks for more
            assert megabytes(given["mem"]) in {int(one["mem_mb"]) for one in asked[rule]}, rule


def megabytes(memory: str) -> int:
    units = {"M": 1, "G": 1024}
    return round(float(memory[:-1]) * units[memory[-1]])


def check_that_a_gpu_belonged_to_one_job_at_a_time(study, jobs):
    seen = {True: set(), False: set()}
    for log in study.path("logs").rglob("*.log"):
        of_gpu_rule = bool({log.stem, log.parent.name} & GPU_RULES)
        seen[of_gpu_rule] |= set(re.findall(r"CUDA_VISIBLE_DEVICES=(\w+)", log.read_text()))
    assert seen == {True: {"0", "1"}, False: {"None"}}
    spans = [span(job) for rule in GPU_RULES for job in jobs[rule]]
    moments = sorted(start for start, _ in spans)
    assert max(sum(start <= t < end for start, end in spans) for t in moments) <= 2


def check_that_shards_ran_side_by_side(everything):
    """Whichever attempts: what was cancelled runs again alone.

    Six shards are ready at once and there are two GPUs, so two of them have to meet.
    """
    shards = [job for job in everything if rule_of(job) in FIRST_SHARDS]
    spans = [span(job) for job in shards]
    assert any(a < d and c < b for i, (a, b) in enumerate(spans) for c, d in spans[i + 1 :])


def span(job) -> tuple[datetime, datetime]:
    return tuple(datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime"))


def check_that_jobs_were_cancelled(cancelled, everything):
    states = {job["JobId"]: job["JobState"] for job in everything}
    assert len(cancelled) == CANCELLED
    assert {states[number] for number in cancelled} <= {"CANCELLED", "FAILED", "COMPLETED"}
    assert any(states[number] != "COMPLETED" for number in cancelled)


def check_that_results_are_those_of_a_local_run(study, finished):
    for name in (
        *TARGETS,
        "results/tiny/dpo/neurons.parquet",
        "results/tiny/base/directions/mean_difference.json",
    ):
        assert study.path(name).read_bytes() == finished.path(name).read_bytes(), name
    stores = sorted(study.path("results").rglob("activations/*/*.h5"))
    assert len(stores) >= 6
    for path in stores:
        with (
            h5py.File(path) as one,
            h5py.File(finished.path(path.relative_to(study.folder))) as two,
        ):
            for name in ("tokens", "lengths", "prompt_ids", *(f"mean/{k}" for k in one["mean"])):
                np.testing.assert_array_equal(one[name][:], two[name][:])


def check_that_nothing_half_written_is_left(study):
    hidden = [path for path in study.path("results").rglob(".*") if path.is_file()]
    assert [path for path in hidden if path.name != ".snakemake_timestamp"] == []

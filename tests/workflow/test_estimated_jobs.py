"""`snakemake estimate` speaks of the jobs that a study then has, before anything was fetched."""

import re
from collections import Counter


def test_estimate_counts_the_jobs_that_are_planned(untouched):
    printed = untouched.run("estimate", "--quiet", "all")
    planned = Counter(job.rule for job in untouched.plan())
    rows = re.findall(r"^ *(\w+) +(\d+) +[\d.]+ +\d+ ", printed, re.MULTILINE)
    assert len(rows) == 23
    for rule, jobs in rows:
        assert planned[rule] == int(jobs), rule
    # it leaves nothing but its log and its benchmark
    assert not untouched.path("results").exists()
    assert {path.name for path in untouched.path("resources").iterdir()} <= {"shapes", "checked"}
    assert "GFLOP/s" in untouched.path("logs/estimate.log").read_text()

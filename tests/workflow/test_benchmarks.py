"""The benchmarks still measure what they say: the quick one on the tiny study."""

import re
import subprocess
import sys

from studies import ROOT

SPEED = ROOT / "tests" / "benchmarks" / "speed.py"


def test_the_benchmark_of_speed_measures_and_compares(finished):
    options = "--model resources/models/tiny --results results/tiny --device cpu"
    options += " --new-tokens 6 --repeats 1"
    command = [sys.executable, str(SPEED), *options.split()]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for ratio in ("capture / plain", "straightforward / experiment of 13"):
        assert float(re.search(rf"^{ratio}: ([\d.]+)", done.stdout, re.M)[1]) > 0
    assert "continuations with identical tokens: 78 of 78" in done.stdout

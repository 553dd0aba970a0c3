"""Makes the scripts and their library importable, as Snakemake does for a rule."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run side by side
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow" / "scripts"
STAGES = sorted(path for path in SCRIPTS.iterdir() if (path / "__init__.py").exists() is False)
sys.path[:0] = [str(SCRIPTS), *(str(path) for path in STAGES if path.is_dir())]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on an empty file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)

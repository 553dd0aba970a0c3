"""The device of a process, and GPUs that are claimed: by real processes, with stand-in names."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from neurondynamics.lm import devices
from neurondynamics.lm.devices import claim, resolve_device, visible_gpus

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "scripts"
CLAIMANT = """
    import logging, sys, time
    from pathlib import Path
    from neurondynamics.lm import devices

    devices.PAUSE = 0.1
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    print(devices.claim(["0", "MIG-3/1/0"], Path(sys.argv[1])), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts a process that claims one of two GPUs and keeps it."""
    started = []

    def begin():
        command = [sys.executable, "-c", textwrap.dedent(CLAIMANT), str(tmp_path)]
        started.append(subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True))
        return started[-1]

    begin.started = started
    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_each_process_has_a_gpu_of_its_own(start, how):
    """The third waits until one of the others dies, and then has that one's."""
    first, second = start(), start()
    had = {process.stdout.readline().strip(): process for process in (first, second)}
    assert set(had) == {"0", "MIG-3/1/0"}
    third = start()
    assert third.stdout.readline() == "waiting for a GPU: 0, MIG-3/1/0 are taken\n"
    had["MIG-3/1/0"].send_signal(how)
    assert third.stdout.readline() == "MIG-3/1/0\n"


def test_of_several_gpus_all_are_claimed_or_none(tmp_path, start, monkeypatch):
    """What one that waits for two held would else be missing to others that wait as well."""
    monkeypatch.setattr(devices, "_claims", [])
    first = start()
    assert first.stdout.readline() == "0\n"

    def free(_):
        assert start().stdout.readline() == "MIG-3/1/0\n"
        for process in start.started:
            process.kill()
            process.wait()

    monkeypatch.setattr(devices.time, "sleep", free)
    assert claim(["0", "MIG-3/1/0"], tmp_path, 2) == "0,MIG-3/1/0"


def test_a_process_keeps_what_it_claimed(tmp_path, start, monkeypatch):
    monkeypatch.setattr(devices, "_claims", [])
    assert claim(["0"], tmp_path) == "0"
    assert start().stdout.readline() == "MIG-3/1/0\n"
    devices._claims.clear()
    assert start().stdout.readline() == "0\n"


@pytest.fixture
def anew():
    """The device is found out once a process: forget it."""
    resolve_device.cache_clear()
    yield
    resolve_device.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu(anew):
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device: cuda, but no GPU"):
        resolve_device("cuda")


@pytest.mark.parametrize(("given", "expected"), [("3,GPU-1a", ["3", "GPU-1a"]), (None, ["0", "1"])])
def test_visible_gpus(monkeypatch, given, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_gpu_is_claimed_unless_a_scheduler_gave_it(anew, monkeypatch, tmp_path, scheduled):
    """With two GPUs that torch believes in; the claim is real."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_claims", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6" if scheduled else "6,7")
    if scheduled:
        monkeypatch.setenv("SLURM_JOB_ID", "1")
    else:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert resolve_device("auto") == resolve_device("auto") == torch.device("cuda", 0)
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert len(list(tmp_path.glob("neurondynamics-*-gpu-6.lock"))) == (not scheduled)


def test_processes_that_were_started_together_have_a_gpu_each(anew, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_claims", [])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    with pytest.raises(ValueError, match="gpus: 4, but there are only 3 here: 5, 6, 7"):
        devices.take_gpus(4)
    devices.take_gpus(2)
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == "5,6"
    monkeypatch.setenv("LOCAL_RANK", "1")  # as in a process that this one starts
    assert resolve_device("auto") == torch.device("cuda", 1)

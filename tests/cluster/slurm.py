"""A real SLURM on this machine for the time of a test: controller, one node, authentication.

The node has two stand-ins for GPUs: SLURM counts and hands out device files, whatever they are.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
CPUS = 4  # what the node claims to have
MEMORY = 64_000  # MB; nothing enforces it here
GPUS = (Path("/dev/tty0"), Path("/dev/tty1"))
# where a step looks that was started without SLURM_CONF, as the executor's plugin starts it
FOUND = Path("/run/slurm/conf/slurm.conf")
LOCK = "in-use.lock"  # beside a configuration of ours, held while its cluster runs
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
MinJobAge=600
KillWait=2
ReturnToService=2
GresTypes=gpu
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Return what keeps SLURM from being started here, if anything does."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"SLURM is not installed (no {', '.join(missing)}): slurm-wlm and munge on Debian"
    if os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    if Path("/etc/slurm/slurm.conf").exists() or (FOUND.exists() and not _is_left_over()):
        return "this machine has a SLURM of its own"
    if not all(path.exists() for path in GPUS):
        return "there are no terminals to stand in for GPUs"
    return None


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(number: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """A running SLURM; its commands find it through `environment`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}

    def __call__(self, *command: str) -> str:
        """Run one of SLURM's commands, which has to succeed, and return what it printed."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Return what SLURM knows of every job, running or ended: a dict of its fields each."""
        lines = self("scontrol", "show", "job", "--oneliner").splitlines()
        return [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]


@contextmanager
def running_cluster(folder: Path):
    """Start SLURM with its files in a folder, wait for its node, and stop all of it at the end."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    controller, node = _free_ports(2)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder, host=host, controller=controller, node=node, cpus=CPUS, memory=MEMORY
        )
    )
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/tty[0-1]\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    cluster = Cluster(folder)
    munged = ["munged", "--foreground", "--force", "--key-file", str(key)]
    munged += ["--socket", f"{folder}/munge.socket", "--pid-file", f"{folder}/munged.pid"]
    munged += ["--log-file", f"{folder}/munged.log", "--seed-file", f"{folder}/munged.seed"]
    with ExitStack() as stack:
        stack.enter_context(_found_by_default(folder / "slurm.conf"))
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            stack.enter_context(_daemon(command, cluster))
        _wait(lambda: "idle" in cluster("sinfo", "--noheader", "-o", "%t"), cluster)
        yield cluster
        cluster("scancel", "--user", "root")


@contextmanager
def _found_by_default(configuration: Path):
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    if FOUND.is_symlink():
        FOUND.unlink()
    with FileLock(configuration.with_name(LOCK)):
        FOUND.symlink_to(configuration)
        try:
            yield
        finally:
            FOUND.unlink()


def _is_left_over() -> bool:
    """Return whether what is found by default is of a test that was killed."""
    lock = FOUND.resolve().with_name(LOCK)
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


@contextmanager
def _daemon(command: list[str], cluster: Cluster):
    with open(cluster.folder / f"{command[0]}.out", "w") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],  # whatever ends the tests
            env=cluster.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    if command[0] == "munged":
        _wait((cluster.folder / "munge.socket").exists, cluster)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready, cluster: Cluster, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except AssertionError:  # the controller does not answer yet
            pass
        time.sleep(0.2)
    logs = {path.name: path.read_text()[-2000:] for path in cluster.folder.glob("*.[lo]*")}
    raise AssertionError(f"SLURM did not start: {logs}")

"""A Slurm of one node on this machine, for tests: munged, slurmctld and slurmd with all they write in one folder.

Needs root and Debian's packages slurm-wlm and munge; neither systemd nor cgroups nor a database. Nothing outside of the
folder changes. By hand:

    python tests/slurm/one_node.py up /tmp/slurm      prints what to export
    python tests/slurm/one_node.py down /tmp/slurm
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order of their start
SECONDS = 60.0  # to come up

CONFIG = """\
ClusterName=relinearize
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that was queued again starts when its old credential has expired: not after the usual two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
# No plugin that wants cgroups, a database or MPI.
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# A core each; start what is waiting at once, kill what is cancelled soon, remember it for the sacct beside this file.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
KillWait=2
MinJobAge=3600
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if one can."""
    programs = [name for name in (*DAEMONS, "sbatch", "srun", "squeue", "sinfo") if not found(name)]
    if programs:
        return f"{', '.join(programs)} not found: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "starting Slurm takes root"


def found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def environment(folder: Path) -> dict[str, str]:
    """What a command needs to use the Slurm of the folder."""
    here = str(Path(__file__).parent)
    return {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{here}:{os.environ.get('PATH', os.defpath)}"}


def up(folder: Path) -> None:
    """Start the daemons; returns when the node takes jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munged wants its socket reachable
    for name in ("controller", "node"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    config = CONFIG.format(
        folder=folder, host=host, cores=os.cpu_count(), megabytes=memory * 9 // 10,
        controller_port=free_port(), node_port=free_port(),
    )  # fmt: skip
    (folder / "slurm.conf").write_text(config)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log",
             "seed-file": "munge.seed"}  # fmt: skip
    start(folder, "munged", *(f"--{option}={folder / name}" for option, name in files.items()))
    start(folder, "slurmctld")
    start(folder, "slurmd")
    limit = time.monotonic() + SECONDS
    while node_state(folder) != "idle":
        if time.monotonic() > limit:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"the node of {folder} takes no jobs after {SECONDS:.0f} s\n{logs}")
        time.sleep(0.2)


def node_state(folder: Path) -> str:
    command = ["sinfo", "--noheader", "--format=%T"]
    variables = {**os.environ, **environment(folder)}
    return subprocess.run(command, env=variables, capture_output=True, text=True).stdout.strip()


def start(folder: Path, daemon: str, *options: str) -> None:
    """The daemons leave for the background by themselves once they work."""
    done = subprocess.run(
        [found(daemon) or daemon, *options], env={**os.environ, **environment(folder)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{daemon} does not start: {done.stderr.strip()}")


def down(folder: Path) -> None:
    """Cancel what runs and end the daemons by their process numbers, the first one last."""
    subprocess.run(["scancel", "--user=root"], env={**os.environ, **environment(folder)}, capture_output=True)
    for daemon in reversed(DAEMONS):
        with contextlib.suppress(OSError, ValueError):  # it never started, or has ended
            number = int((folder / f"{daemon}.pid").read_text())
            os.kill(number, signal.SIGTERM)
            limit = time.monotonic() + SECONDS
            while time.monotonic() < limit:  # until there is no such process: it writes into the folder
                time.sleep(0.05)
                os.kill(number, 0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the environment variables with which commands find it."""
    try:
        up(folder)
        yield environment(folder)
    finally:
        down(folder)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit("usage: one_node.py up|down FOLDER")
    where = Path(sys.argv[2]).absolute()
    if sys.argv[1] == "down":
        down(where)
    elif reason := missing():
        sys.exit(f"one_node.py: {reason}")
    else:
        up(where)
        print("\n".join(f'export {name}="{value}"' for name, value in environment(where).items()))

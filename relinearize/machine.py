"""What a result was computed with: versions of packages, the commit, the names of the processor and the GPU."""

import contextlib
import functools
import importlib.util
import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("relinearize", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")

LOADS = Path("/proc/loadavg")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of control group 2: microseconds of processor time, and in how many
MEMORY_OF_GROUP = Path("/sys/fs/cgroup")  # its memory.max, memory.current and memory.stat, in bytes
MEMORY = Path("/proc/meminfo")  # in kB


def versions(*further: str) -> dict[str, str]:
    """Version of Python, of `PACKAGES` and of `further` packages, those that are installed."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def installed(package: str) -> bool:
    """Whether it can be imported; a plain folder of its name in the working directory is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def git_commit() -> str | None:
    """The commit of the source checkout this runs from; None in an installed package, and without the program git."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return None


def cpu_info(*fields: str) -> str | None:
    """The first value of one of `fields` in /proc/cpuinfo; None where there is no such file or field."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in fields:
                return value.strip()
    return None


def processor_name() -> str:
    """The processor's name as Linux knows it; elsewhere its architecture."""
    return cpu_info("model name") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPU cores that this process may use: by its affinity, its control group and its Slurm task."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no limit
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        limits.append(math.ceil(int(quota) / int(period)))
    with contextlib.suppress(KeyError, ValueError):
        limits.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    return max(1, min(limits))


@functools.cache  # the runs of a sweep would take the load of the one before them for that of others
def free_cores() -> int:
    """Usable cores that others leave free, at least 1.

    The load average of the last minute is that of the whole machine: a share of its cores says nothing by it. Nor does
    it say anything of what has just ended.
    """
    cores, load = usable_cores(), 0
    with contextlib.suppress(OSError, AttributeError):
        load = int(os.getloadavg()[0])
        with contextlib.suppress(ValueError, IndexError):  # "0.20 0.18 0.12 3/80 11206": 3 are running, this one too
            load = min(load, int(LOADS.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1)
    return max(1, cores - load) if cores == os.cpu_count() else cores


def available_memory() -> float:
    """Bytes that this process can have without swapping, files that the system caches given up; infinity if unknown."""
    limits = [math.inf]
    with contextlib.suppress(OSError, KeyError, ValueError):
        limits.append(1024 * int(_entries(MEMORY)["MemAvailable:"]))
    with contextlib.suppress(OSError, KeyError, ValueError):  # "max" where the control group has no limit
        most, used = (
            int((MEMORY_OF_GROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current")
        )
        limits.append(most - used + int(_entries(MEMORY_OF_GROUP / "memory.stat")["inactive_file"]))
    return max(0, min(limits))


def _entries(path: Path) -> dict[str, str]:
    """First word of each line -> second word."""
    return dict(line.split()[:2] for line in path.read_text(encoding="ascii").splitlines())


def device_name(accelerator: str) -> str:
    """The name of the GPU for `cuda`, of the processor for `cpu`."""
    if accelerator != "cuda":
        return processor_name()
    import torch

    return torch.cuda.get_device_name()

"""The launchers of conf/launcher/slurm.yaml and submitit_local.yaml; Hydra takes launchers from this folder only.

They submit as hydra-submitit-launcher does and differ in the end: that launcher raises at the first job that was
cancelled or killed, whatever the others still do; these wait for all and note which were lost.
"""

import contextlib
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from relinearize.machine import usable_cores
from relinearize.sweeps.jobs import note_lost, note_waiting, why_lost

try:
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import (
        BaseSubmititLauncher,
        LocalLauncher,
        SlurmLauncher,
    )
except ImportError:  # relinearize without its extra `launchers`
    BaseSubmititLauncher = LocalLauncher = SlurmLauncher = object


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: jobs that run already would be lost to whoever ends them."""
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: arrived.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


class WaitForAll(BaseSubmititLauncher):
    """Waits for all jobs. Not a launcher by itself: it knows no cluster."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """One result for each job, in order; NaN for those that were lost."""
        jobs: list[Any] = []
        try:
            with interrupts_held_back():
                jobs = self.submit(job_overrides, initial_job_idx)
            return [
                self.outcome(job, number, list(overrides))
                for number, (job, overrides) in enumerate(zip(jobs, job_overrides, strict=True), initial_job_idx)
            ]
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(self.abandon(jobs) or "") from interrupt

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """submitit's jobs: on Slurm, one array."""
        import submitit

        settings = dict(self.params)
        folder, requeues = settings.pop("submitit_folder"), settings.pop("max_num_timeout", None)
        own = {} if requeues is None else {f"{self._EXECUTOR}_max_num_timeout": requeues}
        executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **own)
        shared = BaseQueueConf.__dataclass_fields__
        executor.update_parameters(
            **{key if key in shared else f"{self._EXECUTOR}_{key}": value for key, value in settings.items()}
        )
        with executor.batch():
            return [
                executor.submit(self, list(overrides), "hydra.sweep.dir", number, str(number), Singleton.get_state())
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]

    def __call__(self, *arguments: Any, **settings: Any) -> JobReturn:
        """In the job: where its run failed, it fails, too, so that Slurm's accounting says so. See `outcome`."""
        result = super().__call__(*arguments, **settings)
        if math.isnan(result.return_value):
            raise RuntimeError("this job's run failed, as said above")
        return result

    def outcome(self, job: Any, number: int, overrides: list[str]) -> JobReturn:
        """Of a job, once it has ended."""
        try:
            return job.results()[0]
        except Exception as error:
            accuracy = note_lost(Path(self.config.hydra.sweep.dir), number, overrides, why_lost(job, error))
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=accuracy)

    def abandon(self, jobs: Sequence[Any]) -> str | None:
        """The command is interrupted; what runs on a cluster goes on. Returns what the user should know."""
        numbers = dict.fromkeys(job.job_id.partition("_")[0] for job in jobs)
        return f"its jobs go on (`relinearize status`); to end them: scancel {' '.join(numbers)}" if jobs else None

    def checkpoint(self, *arguments: Any, **settings: Any) -> Any:
        """submitit calls it in the job, before the job is queued again."""
        note_waiting()
        return super().checkpoint(*arguments, **settings)


class SlurmWaitForAll(WaitForAll, SlurmLauncher):
    pass


class LocalWaitForAll(WaitForAll, LocalLauncher):
    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """All jobs begin at once: each is given its share of the cores, unless OMP_NUM_THREADS says otherwise."""
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // len(job_overrides))))
        return super().submit(job_overrides, initial_job_idx)

    def abandon(self, jobs: Sequence[Any]) -> None:
        """Stop them like this process."""
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.wait()

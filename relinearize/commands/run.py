"""What one job of `relinearize run` does with its composed config: the run, and its place in a sweep."""

import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from relinearize.records.run import RECORD_FILE, Record
from relinearize.runs.pipeline import run


def run_job(config: DictConfig) -> tuple[Record, Path]:
    """Run, and leave the record in the sweep's folder too. Returns the record and the run's folder."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    record, folder = run(config)
    if in_sweep:
        job_folder = Path(HydraConfig.get().runtime.output_dir)
        job_folder.mkdir(parents=True, exist_ok=True)
        temporary = job_folder / f".{RECORD_FILE}.tmp"
        shutil.copyfile(folder / RECORD_FILE, temporary)
        temporary.replace(job_folder / RECORD_FILE)
    return record, folder

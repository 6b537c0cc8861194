"""What one job of `relinearize run` does with its composed config: the run, and its place in a sweep."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from relinearize.files import write_bytes
from relinearize.records.run import RECORD_FILE, Record
from relinearize.runs.pipeline import run


def run_job(config: DictConfig) -> tuple[Record, Path]:
    """Run, and leave the record in the sweep's folder too. Returns the record and the run's folder."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    record, folder = run(config)
    if in_sweep:
        job_folder = Path(HydraConfig.get().runtime.output_dir)
        write_bytes(job_folder / RECORD_FILE, (folder / RECORD_FILE).read_bytes())
    return record, folder

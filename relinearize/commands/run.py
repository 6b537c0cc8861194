"""What one job of `relinearize run` does with its composed config: the run, and its place in a sweep."""

from collections.abc import Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from relinearize.conf_folder import conf_folder
from relinearize.files import write_bytes
from relinearize.records.run import RECORD_FILE, Record
from relinearize.runs.pipeline import run


def run_job(config: DictConfig) -> tuple[Record, Path]:
    """Run, and leave the record in the sweep's folder too. Returns the record and the run's folder."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    in_sweep = hydra is not None and hydra.mode == RunMode.MULTIRUN
    if hydra is not None:
        config.method.name = combination_name(config.method.name, hydra.runtime.choices)
    record, folder = run(config)
    if in_sweep:
        job_folder = Path(HydraConfig.get().runtime.output_dir)
        write_bytes(job_folder / RECORD_FILE, (folder / RECORD_FILE).read_bytes())
    return record, folder


def combination_name(name: str, choices: Mapping[str, str]) -> str:
    """The label of a run whose search or fine-tuning is not its method's own: SEARCH+FINETUNING, as in snl+senet.

    `name` is `method.name`, `choices` Hydra's file of each config group. A name that the user or an experiment gave
    stays, and so does that of a method whose file is not in conf/method or builds on another.
    """
    file = conf_folder() / "method" / f"{choices['method']}.yaml"
    method = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    own = {
        stage: choice
        for entry in method.get("defaults", [])
        if OmegaConf.is_dict(entry)
        for stage, choice in entry.items()
    }
    chosen = {stage: choices[f"method/{stage}"] for stage in ("search", "finetune")}
    if name != method.get("name") or not chosen.keys() <= own.keys() or chosen.items() <= own.items():
        return name
    return "+".join(chosen.values())

"""A run that is run again is found without PyTorch: by its whole config and its images.

A run's own key takes the classes of its stages and its network to compute, which take seconds to import. So the folder
of a run is noted in `STORE/asked/`, under a key of the whole config. What is not found there is looked for as usual.
"""

import contextlib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from relinearize.files import DAMAGED, write_text
from relinearize.records.config import entries
from relinearize.records.run import RECORD_FILE, Record
from relinearize.records.store import Artifact, content_key
from relinearize.runs.keys import RESULTS_VERSION
from relinearize.runs.schema import check_targets, checked
from relinearize.targets import build, is_ours

NOTES_VERSION = 7  # raise it where keys get an entry that follows from no setting: former notes lead past it
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' subsystem for Linux


def recall(config: DictConfig) -> tuple[Record, Path] | None:
    """The record and folder of the finished run that exactly this config left before; None where none is noted."""
    note = note_of(config)
    if note is None or not note.is_file():
        return None
    folder = Path(note.read_text(encoding="utf-8", errors="surrogateescape"))
    artifact = Artifact(folder, "")
    if not artifact.complete or folder.with_name(f"{folder.name}{DAMAGED}").exists():  # see pipeline.take_back
        return None
    return Record.read(artifact.file(RECORD_FILE)), folder


def remember(note: Path | None, folder: Path) -> None:
    """Write the folder of a finished run into the note of its config, for the next time this config is run."""
    if note is not None and not note.is_file():
        # Without the note the run is found all the same, if later: in a store that is read-only, or where another
        # process has finished the same run and cleaned up.
        with contextlib.suppress(OSError):
            for leftover in note.parent.glob(f".{note.name}.*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
            write_text(note, str(folder))


def note_of(config: DictConfig) -> Path | None:
    """The file that names the folder of the config's run; None where more than config and images decides."""
    settings = checked(config)
    if decided_elsewhere(settings):
        return None
    # They name no result: which sweep it is of, and where else the search leaves snapshots.
    settings = {**settings, "sweep": None, "budget": {**settings["budget"], "grid": None}}
    check_targets(settings, "dataset")
    source = build(config.dataset.source)
    source.check()
    content = {"version": [RESULTS_VERSION, NOTES_VERSION], "config": settings, "images": source.fingerprint()}
    return Path(config.store) / "asked" / content_key(content)


def decided_elsewhere(settings: dict[str, Any]) -> bool:
    """Whether files, this machine, constants of the package or a user's class decide what the run is; or W&B or a
    repair waits."""
    trainer, sensitivity = settings["trainer"], settings.get("sensitivity") or {}
    by_machine = trainer.get("accelerator") != "cpu" and any(Path(device).exists() for device in GPU_DEVICES)
    stages = entries({"method": settings["method"], "sensitivity": sensitivity})
    named = [value for key, value in stages if key.endswith(".file")]
    files = (settings["teacher"]["weights"], settings["backbone"].get("weights"), *named)
    own = is_ours(sensitivity.get("_target_", "relinearize.")) and is_ours(settings["backbone"]["_target_"])
    free = (settings.get("allocation") or {"name": "free"})["name"] == "free"
    asks = settings.get("repair") or settings["logger"]["name"] == "wandb"
    return by_machine or any(files) or not own or not free or asks

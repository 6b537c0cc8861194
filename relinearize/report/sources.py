"""What a report reads beside the records of runs: those of private inferences and robust evaluations, and masks."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from relinearize.errors import UserError
from relinearize.files import files_below
from relinearize.records.inference import RECORD_FILE as INFERENCE_FILE
from relinearize.records.inference import InferenceRecord
from relinearize.records.robustness import ROBUST_FILE, RobustRecord
from relinearize.records.run import Record
from relinearize.records.store import MASK, WEIGHTS, check_digest

MOST_NAMES = 4  # of runs in a warning

logger = logging.getLogger(__name__)

Positions = dict[str, np.ndarray]  # site name -> bool array of the site's shape, in forward order; true: ReLU kept


def find_inferences(folders: Sequence[Path]) -> list[InferenceRecord]:
    """All records of private inferences below `folders`, each once, also where a folder was copied; broken
    ones are named in the log."""
    places = [path.parent if path.is_file() else path for path in folders]
    paths = {path.resolve(): path for place in places for path in files_below(place, INFERENCE_FILE)}
    found: list[InferenceRecord] = []
    for path in paths.values():
        try:
            record = InferenceRecord.read(path)
        except UserError as error:
            logger.warning("skipped: %s", error)
            continue
        if record not in found:
            found.append(record)
    return found


def find_robustness(folders: Sequence[Path], runs: Iterable[tuple[Path, Record]]) -> list[RobustRecord]:
    """The robust records below `folders`, but those of weights that their run of `runs` no longer has (it was made
    again, with repair=true): these are named in the log."""
    present = {path.parent: (record.files or {}).get(WEIGHTS) for path, record in runs}
    places = [path.with_name(ROBUST_FILE) if path.is_file() else path for path in folders]
    found = []
    for path, robust in RobustRecord.find(place for place in places if place.exists()):
        measured = (robust.evaluation.get("subject") or {}).get("weights")
        if len({measured, present.get(path.parent)} - {None}) > 1:
            logger.warning("skipped: %s: measured with weights that the run no longer has; evaluate it again", path)
        else:
            found.append(robust)
    return found


def read_mask(path: Path, record: Record) -> Positions:
    """The mask of a run. Raises UserError naming `path` where it is damaged or not the mask of this record."""
    check_digest(path, (record.files or {}).get(MASK), "run it again, with repair=true")
    try:
        with safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a dict)
            wrong = [name for name, kind in kinds.items() if kind not in ("U8", "BOOL")]
            found = {} if wrong else {name: file.get_tensor(name) for name in kinds}
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as a mask ({reason})") from error
    if wrong:
        raise UserError(f"{path}: site {wrong[0]} holds {kinds[wrong[0]]} numbers, a mask holds zeros and ones")
    names = [site.name for site in record.sites]
    if sorted(found) != sorted(names):
        other = sorted(set(found) ^ set(names))[0]
        raise UserError(f"{path}: its sites are not those of the record beside it (site {other} is in one of them)")
    for site in record.sites:
        positions = found[site.name]
        if positions.shape != site.shape:
            raise UserError(f"{path}: site {site.name} is {positions.shape}, the record says {site.shape}")
        if positions.size and positions.max() > 1:
            raise UserError(f"{path}: site {site.name} holds something else than zeros and ones")
        kept = int(np.count_nonzero(positions))
        if kept != site.kept:
            raise UserError(f"{path}: site {site.name} keeps {kept:,} ReLUs, the record says {site.kept:,}")
    return {name: found[name].astype(bool) for name in names}


def find_masks(runs: Iterable[tuple[Path, Record]]) -> tuple[dict[str, Positions], list[str]]:
    """Record key -> its mask, and the names of the runs without a readable one; one log line says what is wrong.

    `runs`: records with the paths of their files. Runs whose mask file is missing share one line.
    """
    masks: dict[str, Positions] = {}
    missing: list[str] = []
    unreadable: list[str] = []
    for path, record in runs:
        file = path.with_name(MASK)
        if not file.is_file():
            missing.append(record.name)
            continue
        try:
            masks[record.key] = read_mask(file, record)
        except UserError as error:
            logger.warning("left out of the mask figures: %s", error)
            unreadable.append(record.name)
    if missing:
        more = f" and {len(missing) - MOST_NAMES} more" if len(missing) > MOST_NAMES else ""
        names = ", ".join(missing[:MOST_NAMES])
        logger.warning("left out of the mask figures: no %s beside the record of %s%s", MASK, names, more)
    return masks, missing + unreadable

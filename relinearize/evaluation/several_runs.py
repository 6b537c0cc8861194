"""`relinearize evaluate run=A,B` or run='outputs/runs/*': one run after the other; failures wait until the end."""

import glob
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relinearize.errors import UserError, user_error_behind
from relinearize.records.run import RECORD_FILE


def run_folders(text: str) -> list[Path]:
    """The folders that `run=` names: one, several with commas between, or patterns that match finished runs.

    A folder that is named is taken as it is; of what a pattern matches only folders with a record.
    """
    if Path(text).is_dir():
        return [Path(text)]
    folders: dict[Path, None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if glob.has_magic(part) and not Path(part).is_dir():
            matched = [Path(path) for path in sorted(glob.glob(part)) if (Path(path) / RECORD_FILE).is_file()]
            if not matched:
                raise UserError(f"run={part} matches no finished run (a folder with {RECORD_FILE})")
            folders |= dict.fromkeys(matched)
        else:
            folders[Path(part)] = None
    if not folders:
        raise UserError(f"run={text} names no folder")
    return list(folders)


def evaluate_each(folders: list[Path], evaluate: Callable[[Path], Any]) -> list[Any]:
    """`evaluate` of each folder. A failure does not stop the others.

    At the end UserError if there was any, after a line for each.
    """
    results, failures = [], []
    for folder in folders:
        try:
            results.append(evaluate(folder))
        except Exception as error:
            cause = user_error_behind(error)
            if cause is None:  # no mistake of the user's: where it happened is worth seeing
                traceback.print_exc()
            message = str(cause) if cause else f"{type(error).__name__}: {error}"
            failures.append(f"{folder}: {' '.join(message.split())}")
    for failure in failures:
        print(f"relinearize: {failure}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(folders)} runs could not be evaluated, see above")
    return results

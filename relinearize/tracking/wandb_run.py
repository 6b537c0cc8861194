"""One W&B run: started with the settings of the `logger` group, finished on every way out.

The only place that calls wandb.init. W&B is imported when a run is started, not before.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from relinearize.errors import UserError

AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
STAGING = "WANDB_DATA_DIR"


@contextlib.contextmanager
def wandb_run(
    settings: Mapping[str, Any],
    folder: Path,
    *,
    sweep: str | None = None,
    ended: Callable[[], None] = lambda: None,
    **about: Any,
) -> Iterator[Any]:
    """A W&B run whose files lie in `folder`/wandb; marked as failed where the block raises.

    settings: project, entity, mode of the `logger` group; sweep: the id of the W&B sweep that it is a run of; ended:
    called once W&B has all that it was given; about: further arguments of wandb.init. UserError where W&B does not
    start.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    with staged_in(folder / "wandb"):
        try:
            about |= {key: settings[key] for key in ("project", "entity", "mode")}
            run = wandb.init(dir=str(folder), settings=wandb.Settings(silent=True, sweep_id=sweep), **about)
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(f"logger=wandb: {reason}; logger.mode=offline needs no account and no network") from error
        try:
            yield run
        except BaseException:
            run.finish(exit_code=1)
            ended()
            raise
        run.finish()  # or the runs of a multirun would merge
        ended()


@functools.cache
def run_of_agent() -> dict[str, str]:
    """What `wandb agent` tells the program that it starts; empty without one. To be called before wandb.init.

    Taken out of the environment: wandb.init would give each of our stages the id of the agent's one run.
    """
    if not all(os.environ.get(name) for name in AGENT[:2]):
        return {}
    return {name: os.environ.pop(name) for name in AGENT if name in os.environ}


@contextlib.contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Let W&B keep what a later `wandb sync` uploads in `folder`, unless the user said where.

    By itself it takes the home folder, which on a cluster's node may be gone after the job.
    """
    if os.environ.get(STAGING):
        yield
        return
    os.environ[STAGING] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[STAGING]

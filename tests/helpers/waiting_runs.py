"""`relinearize` whose runs only wait, until there is a file `go` in their output: for tests of launchers."""

import contextlib
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from relinearize import cli
from relinearize.commands import run


def make_run(config):
    """A record as far as a sweep looks at it. Seed 13 brings bad luck."""
    output = Path(config.output)
    (output / f"threads-{config.seed}").write_text(os.environ.get("OMP_NUM_THREADS", "as torch likes"))
    with open(output / f"begun-{config.seed}", "a") as file:
        file.write("once more\n")
    if config.seed == 13:
        raise ZeroDivisionError("by seed 13")
    while not (output / "go").exists():
        time.sleep(0.02)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return SimpleNamespace(accuracy=SimpleNamespace(test=60.0 + config.seed, objective=70.0), created=created), output


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with contextlib.suppress(ImportError):
        import submitit

        submitit.Job._results_timeout_s = 0  # how long a result is waited for after its process has ended
    # Functions of this file travel to the workers whole, with what they refer to.
    run.make_run = make_run
    cli.main()

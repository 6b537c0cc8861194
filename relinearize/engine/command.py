"""`relinearize infer`: here if SPU is here, else by the Python of the environment that `make pi` makes."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from relinearize.arguments import key_values
from relinearize.engine.options import HELP, KEYS, read_options
from relinearize.errors import UserError

ENVIRONMENT = Path(".venv-pi/bin/python")


def infer_command(arguments: Sequence[str]) -> None:
    """Do what `arguments` ask (`options.HELP`). Does not come back if another Python takes over."""
    if set(arguments) & {"-h", "--help"}:
        print(HELP)
        return
    options = read_options(arguments)  # wrong ones are said at once
    if importlib.util.find_spec("spu") is None:
        python = engine_python(key_values("infer", arguments, KEYS)["python"])
        sys.stdout.flush()
        os.execv(python, [python, "-P", "-m", "relinearize.engine", *arguments])
    from relinearize.engine.infer import infer
    from relinearize.engine.table import show

    show(infer(options))
    print(options.output / "inference.json", flush=True)


def engine_python(asked: str) -> str:
    """The Python that has the engine; UserError says how to make one."""
    places = [Path(asked)] if asked else [Path.cwd() / ENVIRONMENT, Path(__file__).parents[2] / ENVIRONMENT]
    found = next((place for place in places if os.access(place, os.X_OK)), None)
    if found is None:
        raise UserError(
            f"infer needs SecretFlow SPU in an environment of its own, and there is none at {places[0]}; "
            "`make pi` makes it (Linux on x86-64, Python 3.11), python=FILE names another"
        )
    return str(found)

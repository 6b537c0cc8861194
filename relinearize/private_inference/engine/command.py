"""`relinearize infer`: here if the engine is here, else by the Python of an environment that has it."""

import os
import sys
from collections.abc import Sequence

from relinearize.errors import UserError
from relinearize.private_inference.engine.engines import ENGINES
from relinearize.private_inference.engine.options import HELP, Options, read_options


def infer_command(arguments: Sequence[str]) -> None:
    """Do what `arguments` ask (`options.HELP`). Does not come back if another Python takes over."""
    if asks_for_help(arguments):
        return
    options = read_options(arguments)  # wrong ones are said at once
    engine = ENGINES[options.engine]
    if not engine.here:
        python = engine.python(options.python)
        sys.stdout.flush()
        os.execv(python, [python, "-P", "-m", "relinearize.private_inference.engine", *arguments])
    infer_here(options)


def infer_in_this_environment(arguments: Sequence[str]) -> None:
    """The same in an environment that is meant to have the engine: it never hands over."""
    if asks_for_help(arguments):
        return
    options = read_options(arguments)
    engine = ENGINES[options.engine]
    if not engine.here:
        raise UserError(f"{sys.executable} cannot import {engine.package}; {engine.remedy}")
    infer_here(options)


def asks_for_help(arguments: Sequence[str]) -> bool:
    if not set(arguments) & {"-h", "--help"}:
        return False
    print(HELP)
    return True


def infer_here(options: Options) -> None:
    from relinearize.private_inference.engine.infer import infer
    from relinearize.private_inference.engine.table import show

    show(infer(options))
    print(options.output / "inference.json", flush=True)

"""`relinearize infer`: here if the engine is here, else by the Python of an environment that has it."""

import os
import sys

from relinearize.errors import UserError
from relinearize.private_inference.engine.engines import ENGINES
from relinearize.private_inference.engine.options import Options, Request, resolve


def infer_command(request: Request) -> None:
    """Infer as requested. Does not return if another Python takes over."""
    options = resolve(request)  # mistakes are reported at once
    engine = ENGINES[options.engine]
    if not engine.here:
        python = engine.python(options.python)
        sys.stdout.flush()
        os.execv(python, [python, "-P", "-m", "relinearize.private_inference.engine", request.to_json()])
    infer_here(options)


def infer_in_this_environment(request: Request) -> None:
    """The same in an environment that is meant to have the engine: it never hands over."""
    options = resolve(request)
    engine = ENGINES[options.engine]
    if not engine.here:
        raise UserError(f"{sys.executable} cannot import {engine.package}; {engine.remedy}")
    infer_here(options)


def infer_here(options: Options) -> None:
    from relinearize.private_inference.engine.infer import infer
    from relinearize.private_inference.engine.table import show

    show(infer(options))
    print(options.output / "inference.json", flush=True)

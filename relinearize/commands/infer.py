"""`relinearize infer`: here if the engine is here, else by the Python of an environment that has it."""

import os
import sys
from collections.abc import Sequence

from relinearize.commands.composing import checked, composed
from relinearize.errors import UserError
from relinearize.private_inference.engine.options import InferOptions


def main(arguments: Sequence[str]) -> None:
    """Compose conf/infer.yaml and infer. Does not come back if another Python takes over."""
    options = checked(InferOptions, composed("infer", arguments, InferOptions))
    if not options.chosen_engine.here:
        python = str(options.chosen_engine.python(options.python))
        sys.stdout.flush()
        try:
            os.execv(python, [python, "-P", "-m", "relinearize.private_inference.engine", options.to_json()])
        except OSError as error:  # a folder, or a file that is no program
            raise UserError(
                f"python={python} cannot be started ({error.strerror}); python=FILE names another"
            ) from error
    from relinearize.private_inference.engine.infer import infer_and_show

    infer_and_show(options)

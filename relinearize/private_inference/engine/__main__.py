"""`relinearize infer` in the engine's environment: `python -m relinearize.private_inference.engine OPTIONS` (JSON)."""

import sys
from collections.abc import Sequence

from relinearize.errors import UserError, user_error_behind
from relinearize.private_inference.engine.infer import infer_and_show
from relinearize.private_inference.engine.options import InferOptions


def main(options: InferOptions) -> None:
    """UserError where this environment lacks the engine: it is meant to have it and never hands over."""
    engine = options.chosen_engine
    if not engine.here:
        raise UserError(f"{sys.executable} cannot import {engine.package}; {engine.remedy}")
    infer_and_show(options)


def run(words: Sequence[str]) -> None:
    """`main` with what stands on the command line. Errors of the user, and of the disk, are one line and status 1."""
    try:
        if len(words) != 1:
            raise UserError('give the keys of `relinearize infer` as one word of JSON: \'{"bundle": "FOLDER"}\'')
        main(InferOptions.from_json(words[0]))
    except KeyboardInterrupt:
        print("relinearize: interrupted; both parties are stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if cause := user_error_behind(error):
            sys.exit(f"relinearize: error: {cause}")
        raise


if __name__ == "__main__":
    run(sys.argv[1:])

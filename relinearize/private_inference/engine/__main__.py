"""`relinearize infer` in the engine's environment: `python -m relinearize.private_inference.engine OPTIONS` (JSON)."""

import sys

from relinearize.errors import UserError
from relinearize.private_inference.engine.infer import infer_and_show
from relinearize.private_inference.engine.options import InferOptions


def main(options: InferOptions) -> None:
    """UserError where this environment lacks the engine: it is meant to have it and never hands over."""
    engine = options.chosen_engine
    if not engine.here:
        raise UserError(f"{sys.executable} cannot import {engine.package}; {engine.remedy}")
    infer_and_show(options)


if __name__ == "__main__":
    try:
        main(InferOptions.from_json(sys.argv[1]))
    except UserError as error:
        sys.exit(f"relinearize: error: {error}")
    except KeyboardInterrupt:
        print("relinearize: interrupted; both parties are stopped", file=sys.stderr)
        sys.exit(130)

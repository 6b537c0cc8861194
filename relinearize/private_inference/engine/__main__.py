"""`relinearize infer` in the engine's environment: `python -m relinearize.private_inference.engine KEY=VALUE ...`."""

import sys

from relinearize.errors import UserError
from relinearize.private_inference.engine.command import infer_in_this_environment

if __name__ == "__main__":
    try:
        infer_in_this_environment(sys.argv[1:])
    except UserError as error:
        sys.exit(f"relinearize: error: {error}")
    except KeyboardInterrupt:
        print("relinearize: interrupted; both parties are stopped", file=sys.stderr)
        sys.exit(130)

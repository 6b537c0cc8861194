"""`relinearize infer` in the engine's environment: `python -m relinearize.private_inference.engine REQUEST` (JSON)."""

import sys

from relinearize.errors import UserError
from relinearize.private_inference.engine.command import infer_in_this_environment
from relinearize.private_inference.engine.options import Request

if __name__ == "__main__":
    try:
        infer_in_this_environment(Request.from_json(sys.argv[1]))
    except UserError as error:
        sys.exit(f"relinearize: error: {error}")
    except KeyboardInterrupt:
        print("relinearize: interrupted; both parties are stopped", file=sys.stderr)
        sys.exit(130)

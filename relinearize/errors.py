"""The one exception that a user can cause."""

from typing import Any


class UserError(Exception):
    """Something the user gave cannot work: one line that names the key or path and what would be valid.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """


def user_error_behind(error: BaseException) -> UserError | None:
    """The UserError that Hydra's instantiate wrapped, if any."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None

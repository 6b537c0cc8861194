"""The one exception that a user can cause."""


class UserError(Exception):
    """Something the user gave cannot work: one line that names the key or path and what would be valid.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """

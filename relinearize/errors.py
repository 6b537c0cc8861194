"""The one exception that a user can cause."""

import errno
import operator
import re
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

# Words for some of pydantic's kinds of error.
WORDS = {
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "string_unicode": "must be text in UTF-8",
    "list_type": "must be a list",
    "dict_type": "must hold keys of its own",
    "model_type": "must hold keys of its own",
}
# How a user moves what the file system refuses.
PLACES = "output=, store=, dataset.root= and $TMPDIR say where files lie"
# Colours and the like, and single control characters, which no JSON file of ours may have (files.py).
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")
# Radii of attacks below this are taken for pixels of [0, 1] by mistake: 8/255 is 0.031.
LEAST_RADIUS = 0.1
WITHIN = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


# A full disk, no folder for temporary files, a file system without locks or one that is gone: they may name no file.
NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.ENOLCK, errno.EIO, errno.ESTALE)


class UserError(Exception):
    """Something the user gave cannot work: one line that names the key or path and what would be valid.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """


def check_choice(key: str, value: object, valid: Iterable[object]) -> None:
    """UserError, naming the config key, unless `value` is one of `valid`."""
    valid = tuple(valid)
    if value not in valid:
        raise UserError(f"{key}={as_typed(value)} is unknown; valid: {', '.join(map(as_typed, valid))}")


def check_path(key: str, value: object) -> Path:
    """`value` as a path, `~` expanded. UserError, naming the config key, unless it is text or a path."""
    if not isinstance(value, str | Path):
        raise UserError(f"{key}={as_typed(value)} is no path; a folder whose name is a number: '\"{value}\"'")
    return Path(value).expanduser()


def check_number(key: str, value: object, *bounds: str, integer: bool = False, optional: bool = False) -> None:
    """UserError, naming the config key, unless `value` is a number (NaN is none) within `bounds`: ">= 0", "< 1".

    optional: it may be None.
    """
    fits = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool) and value == value
    for bound in bounds:
        sign, limit = bound.split()
        fits = fits and WITHIN[sign](value, float(limit))
    if not fits and not (optional and value is None):
        kind = "an integer" if integer else "a number"
        raise UserError(f"{key}={as_typed(value)}: must be {' '.join([kind, ' and '.join(bounds)]).strip()}")


def check_radius(key: str, value: object, zero: bool = True) -> None:
    """UserError, naming `key`, unless `value` can be a distance in pixels times 255. `zero`: whether 0 can be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 255:
        raise UserError(f"{key}={value}: give pixels times 255, from 0 to 255 (8 for 8/255)")
    if 0 < value < LEAST_RADIUS:
        raise UserError(f"{key}={value}: this is {value}/255; give pixels times 255 (8 for 8/255)")
    if not (value or zero):
        raise UserError(f"{key}={value} makes no attack; give pixels times 255, above 0 (8 for 8/255)")


def as_typed(value: object) -> str:
    """As it is written in a config: null, not None."""
    return "null" if value is None else str(value)


def checked_keys(key: str, value: object, valid: Collection[str]) -> dict[str, Any]:
    """The settings below the config key `key`, none where it is null. UserError where it holds a single value, or a
    name that is not `valid`."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{key}={value}: {WORDS['dict_type']}")
    if unknown := set(value or {}) - set(valid):
        raise UserError(f"{key}.{min(unknown)} is unknown; valid: {', '.join(valid)}")
    return dict(value or {})


def first_problem(error: Any, values: Any, prefix: str = "") -> str:
    """What is wrong with the first of `values` that pydantic refuses; its dotted key stands behind `prefix`."""
    first, *others = error.errors(include_url=False)
    if not first["loc"]:
        return _words(first)
    keys = []
    for part in first["loc"]:  # of a union, pydantic adds the kind that it tried
        if keys and not (isinstance(values, dict) and (part in values or first["type"] == "missing")):
            break
        keys.append(part)
        values = values.get(part)
    key = prefix + ".".join(keys)
    if first["type"] == "missing":
        return f"{key} must be given"
    kinds = [_words(other) for other in others if list(other["loc"][: len(keys)]) == keys]
    valid = " or ".join(dict.fromkeys([_words(first), *(kind.removeprefix("must be ") for kind in kinds)]))
    return f"{key}={as_typed(values)}: {valid}"


def _words(problem: Mapping[str, Any]) -> str:
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return WORDS.get(problem["type"], message)


def user_error_behind(error: BaseException) -> UserError | None:
    """The UserError that Hydra's instantiate wrapped, or what a refusal of the file system amounts to; else None."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, UserError):
            return seen
        seen = seen.__cause__ or seen.__context__
    while isinstance(error, BaseException):
        if isinstance(error, OSError) and error.strerror and (error.filename or error.errno in NAMELESS):
            name = error.filename2 or error.filename  # of a copy or a rename: what was to be written
            place = f"{name}: " if name else ""
            return UserError(f"{place}{error.strerror} ({PLACES})")
        error = error.__cause__
    return None


def one_line(error: BaseException) -> str:
    """The message, behind the kind of error where it is not the user's; without a terminal's colours."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return " ".join(CONTROL.sub("", f"{kind}{error}").split())


def import_problem(error: BaseException) -> str:
    """The first cause of a failed import in one line, with the file and the line that it comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{one_line(error)} ({frame.filename}, line {frame.lineno})"

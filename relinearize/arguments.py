"""KEY=VALUE arguments of the small commands, which Hydra does not read. For light environments, too."""

from collections.abc import Mapping, Sequence

from relinearize.errors import UserError


def key_values(command: str, arguments: Sequence[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """`defaults` with the values that `arguments` give; a key given twice has its last value.

    UserError for whatever is no KEY=VALUE of a known key.
    """
    values = dict(defaults)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in defaults:
            raise UserError(
                f"{command} does not know {argument!r}; valid: {', '.join(f'{name}=' for name in defaults)}"
            )
        values[key] = value
    return values


def whole_number(key: str, text: str, least: int = 0) -> int:
    """UserError unless `text` is a whole number of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{key}={text}: give a whole number of at least {least}")
    return int(text)


def yes_or_no(key: str, text: str) -> bool:
    """UserError unless `text` is true or false."""
    if text not in ("true", "false"):
        raise UserError(f"{key}={text}: give true or false")
    return text == "true"

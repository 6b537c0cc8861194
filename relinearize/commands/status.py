"""`relinearize status [SWEEP]`: where a sweep stands."""

from collections.abc import Sequence

from relinearize.commands.composing import checked, command_options, composed
from relinearize.errors import UserError
from relinearize.sweeps.status import Sweep, find_sweep, print_sweep


@command_options
class StatusOptions:
    """conf/status.yaml."""

    sweep: list[str]

    def __post_init__(self) -> None:
        if len(self.sweep) > 1:
            raise UserError(
                "relinearize status [SWEEP]: give the name or folder of one sweep, or nothing for the newest"
            )


def main(arguments: Sequence[str]) -> None:
    """Print the table of the sweep's jobs and its summary."""
    options = checked(StatusOptions, composed("status", arguments, StatusOptions, positional="sweep"))
    print_sweep(Sweep.read(find_sweep(*options.sweep or [None])))

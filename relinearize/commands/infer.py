"""`relinearize infer`: a bundle's network on its images under two-party computation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from pydantic import Field

from relinearize.commands.composing import Count, checked, command_options, composed
from relinearize.errors import UserError
from relinearize.private_inference.engine.command import infer_command
from relinearize.private_inference.engine.options import Request


@command_options
class InferOptions:
    """conf/infer.yaml."""

    bundle: str | None
    engine: str | None
    protocol: str | None
    n_images: Count
    network: str
    output: str | None
    kn2row: bool
    local_truncation: bool
    timeout: Annotated[int, Field(ge=10)]
    python: str | None

    def __post_init__(self) -> None:
        if not self.bundle:
            raise UserError("infer needs bundle=FOLDER, what `relinearize export run=FOLDER` wrote")


def main(arguments: Sequence[str]) -> None:
    """Infer and print the table of times, bytes and errors."""
    infer_command(Request(**asdict(checked(InferOptions, composed("infer", arguments, InferOptions)))))

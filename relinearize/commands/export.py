"""`relinearize export`: a finished run, or a checkpoint and a mask, as a bundle for private inference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console

from relinearize.commands.composing import Place, checked, command_options, composed
from relinearize.commands.jobs import require_all
from relinearize.errors import UserError
from relinearize.private_inference.bundle.onnx_model import check_free


@command_options
class ExportOptions:
    """conf/export.yaml. Either `run` or `weights` is given."""

    run: Place | None
    weights: Place | None
    mask: Place | None
    route: str | None
    output: Place | None
    images: Annotated[int, Field(ge=0)]
    root: str | None
    trust: bool
    onnx: bool

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.weights):
            raise UserError(
                "export needs run=FOLDER, the folder of a finished run, or else weights=FILE with a backbone"
            )
        if self.run and self.mask:
            raise refused_with_run(f"mask={self.mask}")
        if self.weights and not self.output:
            raise UserError("export weights=... needs output=FOLDER, where the bundle is written")


def refused_with_run(argument: str) -> UserError:
    if argument.lstrip("+").startswith(("dataset.root=", "dataset.source.root=")):
        return UserError(f"export run=... does not take {argument}: root=FOLDER says where the run's images lie now")
    return UserError(f"export run=... takes network and mask from the run: {argument} goes with weights=FILE only")


def main(arguments: Sequence[str], console: Console | None = None) -> Path:
    """Write the bundle, and say so. Returns its folder."""
    config = composed("export", arguments, ExportOptions)
    options = checked(ExportOptions, config)
    network = [word for word in arguments if word.lstrip("+~").startswith(("backbone", "dataset"))]
    if options.run and network:
        raise refused_with_run(network[0])
    if options.weights:
        require_all(config)
    if options.output:
        check_free(options.output, options.onnx)
    from relinearize.private_inference.export import export_subject, of_checkpoint, of_run

    if options.run:
        subject = of_run(options.run, options.route, options.root, options.trust)
    else:
        subject = of_checkpoint(config, options.weights, options.mask, options.route, options.root)
    return export_subject(subject, options.output, options.images, options.onnx, console)

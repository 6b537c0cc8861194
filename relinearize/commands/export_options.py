"""What `relinearize export` is asked. Imports no torch: `--help` and mistakes are answered at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relinearize.arguments import key_values, whole_number, yes_or_no
from relinearize.errors import UserError

KEYS = {
    "run": "", "weights": "", "mask": "", "route": "", "output": "", "images": "100", "root": "", "onnx": "false",
}  # fmt: skip
HELP = """\
usage: relinearize export run=FOLDER [KEY=VALUE ...]
       relinearize export weights=FILE [mask=FILE] backbone=NAME dataset=NAME output=FOLDER [KEY=VALUE ...]

  run=FOLDER       the folder of a finished run (below outputs/runs)
  route=NAME       which network of a run with several batch-norm routes; default: the clean one, as in its record
  output=FOLDER    the bundle, a folder that does not exist yet; default: FOLDER/bundle
  images=100       test images that go into the bundle with the plaintext logits; 0: random pixels, no dataset needed
  root=FOLDER      where the images lie, if not where they lay during the run
  onnx=false       true: OUTPUT.onnx, too (pip install 'relinearize[onnx]')

  weights=FILE     instead of a run: a checkpoint (.safetensors or .pt) of the backbone and dataset that
                   backbone=..., backbone.KEY=..., dataset=..., dataset.KEY=... say as for `relinearize run`
  mask=FILE        its mask.safetensors; default: all ReLUs are kept"""


@dataclass(frozen=True)
class ExportOptions:
    """Either `run` or `weights` is given. `overrides`: Hydra's, of the groups backbone and dataset, with `weights`."""

    run: Path | None
    weights: Path | None
    mask: Path | None
    route: str | None
    output: Path | None
    images: int
    root: str | None
    onnx: bool
    overrides: tuple[str, ...]


def onnx_path(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.onnx")


def parse_options(arguments: Sequence[str]) -> ExportOptions:
    """UserError for unknown keys and values, for what is missing and for what exists already."""
    overrides = tuple(a for a in arguments if a.startswith(("backbone=", "backbone.", "dataset=", "dataset.")))
    values = key_values("export", [argument for argument in arguments if argument not in overrides], KEYS)
    if bool(values["run"]) == bool(values["weights"]):
        raise UserError("export needs run=FOLDER, the folder of a finished run, or else weights=FILE with a backbone")
    if values["run"] and (overrides or values["mask"]):
        wrong = f"mask={values['mask']}" if values["mask"] else overrides[0]
        raise UserError(f"export run=... takes network and mask from the run: {wrong} goes with weights=FILE only")
    if values["weights"] and not values["output"]:
        raise UserError("export weights=... needs output=FOLDER, where the bundle shall lie")
    paths = {key: Path(values[key]) if values[key] else None for key in ("run", "weights", "mask", "output")}
    options = ExportOptions(
        **paths,
        route=values["route"] or None,
        images=whole_number("images", values["images"]),
        root=values["root"] or None,
        onnx=yes_or_no("onnx", values["onnx"]),
        overrides=overrides,
    )
    if options.output:
        check_free(options.output, options.onnx)
    return options


def check_free(bundle: Path, onnx: bool) -> None:
    """UserError where the bundle or its ONNX model exists."""
    for path in (bundle, *([onnx_path(bundle)] if onnx else [])):
        if path.exists():
            raise UserError(f"{path} exists already; name another folder by output=, or delete that one")

"""What `relinearize cost` is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relinearize.arguments import key_values
from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import Preset, find_presets

KEYS = {"run": "", "bundle": "", "preset": "", "network": "", "route": ""}
HELP = """\
usage: relinearize cost run=FOLDER [KEY=VALUE ...]
       relinearize cost bundle=FOLDER [KEY=VALUE ...]

What private inference of one image costs, predicted: no engine is needed. The constants and their sources are in
relinearize/cost/presets.json.

  run=FOLDER       the folder of a finished run
  bundle=FOLDER    what `relinearize export` left (needs no PyTorch)
  route=NAME       which network of a run with several batch-norm routes
  preset=NAME      delphi_compute, delphi, cheetah or semi2k; delphi_wan and the like: on that network; default: all
  network=NAME     loopback, lan (1 ms, 1 Gbit/s), wan (40 ms, 100 Mbit/s) or '{rtt_ms:80,mbps:20}';
                   default: lan and wan"""


@dataclass(frozen=True)
class CostOptions:
    """Either `run` or `bundle` is given."""

    run: Path | None
    bundle: Path | None
    route: str | None
    presets: list[Preset]


def parse_options(arguments: Sequence[str]) -> CostOptions:
    """UserError for unknown keys and values, and unless one of run and bundle is given."""
    values = key_values("cost", arguments, KEYS)
    if bool(values["run"]) == bool(values["bundle"]):
        raise UserError("cost needs run=FOLDER, a finished run, or bundle=FOLDER, what `relinearize export` left")
    if values["bundle"] and values["route"]:
        raise UserError(f"route={values['route']} is for run=FOLDER; a bundle has one route")
    return CostOptions(
        run=Path(values["run"]) if values["run"] else None,
        bundle=Path(values["bundle"]) if values["bundle"] else None,
        route=values["route"] or None,
        presets=find_presets(values["preset"] or None, values["network"] or None),
    )

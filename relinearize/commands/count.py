"""`relinearize count`: the ReLUs of a network, site by site, in both conventions, as a table."""

import math
import sys
import tempfile
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from relinearize.commands.jobs import application, one_line_errors, show_help
from relinearize.commands.words import flags_first
from relinearize.private_inference.cost.backbones import recorded_name
from relinearize.relu.replacement import IDENTITY
from relinearize.sweeps.arguments import quoted


def main(arguments: Sequence[str]) -> None:
    """Print the table of the network that `arguments` describe; with -m one for each."""
    show_help(arguments)
    with tempfile.TemporaryDirectory() as folder:  # Hydra leaves a file for a multirun, and a folder for each job
        words = flags_first(["hydra.run.dir=.", f"hydra.sweep.dir={quoted(folder)}", *arguments])
        sys.argv = ["relinearize count", *words]
        count_job()


@application
def count_job(config: DictConfig) -> None:
    one_line_errors(show_counts, config)


def count_sites(config: DictConfig, convention: str | None) -> dict[str, tuple[int, ...]]:
    """Site name -> shape of `config`'s backbone under `convention` (None: the backbone has no such option)."""
    from relinearize.relu.sites import site_shapes
    from relinearize.runs.build import all_relu_network
    from relinearize.runs.schema import check_targets, checked
    from relinearize.targets import build

    check_targets(checked(config), "dataset", "backbone")

    config = config.copy()
    if convention is not None:
        with open_dict(config):
            config.backbone.convention = convention
    source = build(config.dataset.source)
    for key in ("mean", "std"):
        if config.dataset[key] is None:  # that of all training images, which does not matter here
            config.dataset[key] = [1.0] * source.channels
    return site_shapes(all_relu_network(config, source).network)


def show_counts(config: DictConfig) -> None:
    """Print one row per site and the totals; sites that only one convention has show a dash in the other."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from relinearize.terminal import right_column

    OmegaConf.resolve(config)
    conventions = ("senet", "snl") if "convention" in config.backbone else (None,)
    columns = {name or "ReLUs": count_sites(config, name) for name in conventions}
    longest = max(columns.values(), key=len)
    width = config.backbone.get("width")
    title = f"{recorded_name(config.backbone)}{f' width {width}' if width else ''} on {config.dataset.title}"
    table = Table(right_column("#"), "site", right_column("shape"), *map(right_column, columns), title=escape(title))
    for index, (site, shape) in enumerate(longest.items()):
        counts = [f"{math.prod(sites[site]):,}" if site in sites else "-" for sites in columns.values()]
        table.add_row(str(index), escape(site), " x ".join(map(str, shape)), *counts)
    table.add_section()
    table.add_row(
        "", "total", "", *(f"{sum(math.prod(shape) for shape in sites.values()):,}" for sites in columns.values())
    )
    if config.replacement.name != IDENTITY:
        table.caption = f"at removed positions, uncounted: {config.replacement.name}"
    Console().print(table)

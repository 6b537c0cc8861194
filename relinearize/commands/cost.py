"""`relinearize cost`: what private inference with a finished run or a bundle costs, predicted."""

from collections.abc import Sequence

from rich.console import Console

from relinearize.commands.composing import Count, Place, checked, command_options, composed
from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import find_presets, one_preset, predicted_layers
from relinearize.private_inference.cost.table import print_costs, print_layers
from relinearize.private_inference.cost.workload import bundle_layers, bundle_workload, mask_workload
from relinearize.terminal import print_lines

SINGLE_IMAGES = "ckks"  # the protocol whose constants are those of a ciphertext that one image fills


@command_options
class CostOptions:
    """conf/cost.yaml. Either `run` or `bundle` is given."""

    run: Place | None
    bundle: Place | None
    route: str | None
    preset: str | None
    network: str | None
    batch: Count
    layers: bool
    trust: bool

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.bundle):
            raise UserError("cost needs run=FOLDER, a finished run, or bundle=FOLDER, what `relinearize export` wrote")
        if self.bundle and self.route:
            raise UserError(f"route={self.route} is for run=FOLDER; a bundle has one route")


def main(arguments: Sequence[str], console: Console | None = None) -> None:
    """Print the table of the presets that were asked for."""
    options = checked(CostOptions, composed("cost", arguments, CostOptions))
    presets = find_presets(options.preset, options.network)
    if options.batch > 1:
        presets = [preset for preset in presets if preset.protocol.name != SINGLE_IMAGES]
        if not presets:
            raise UserError(
                f"batch={options.batch}: the constants of {SINGLE_IMAGES} are of single images; give batch=1"
            )
    reason = None
    if options.bundle:
        from relinearize.private_inference.bundle.bundle import read_bundle

        bundle = read_bundle(options.bundle)
        name, workload = bundle.about.name or str(options.bundle), bundle_workload(bundle, options.batch)
    else:
        from relinearize.private_inference.bundle.exporting import counted_bundle
        from relinearize.private_inference.export import of_run

        subject = of_run(options.run, options.route, trust=options.trust)
        name, record = subject.about.name, subject.record
        try:
            bundle = counted_bundle(subject.network, subject.input_size)
            workload = bundle_workload(bundle, options.batch)
        except UserError as error:  # what it does is in no bundle, but its ReLUs are in the record
            if options.layers:
                raise
            sites = [(site.kept, site.total) for site in record.sites]
            reason, workload = str(error), mask_workload(sites, record.replacement, options.batch)
    print_costs(f"Private inference with {name}, predicted", workload, presets, console, options.batch)
    if reason:
        print_lines([reason], console)
    if options.layers:
        preset = one_preset(options.preset, options.network)
        layers = predicted_layers(preset, bundle_layers(bundle, options.batch))
        print_layers(f"{preset.name} by layer, predicted", layers, console, options.batch)

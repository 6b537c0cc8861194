"""`relinearize evaluate run=FOLDER`: a finished run's network, built again from its files, and tested again."""

from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from relinearize.errors import UserError
from relinearize.experiment.images import open_images, open_source
from relinearize.experiment.making import CONFIG, WEIGHTS
from relinearize.experiment.networks import all_relu_network
from relinearize.experiment.records import RECORD_FILE, Record
from relinearize.experiment.store import MASK, write_json
from relinearize.experiment.training import resolve_accelerator
from relinearize.experiment.weights import match_weights, read_weights
from relinearize.methods.accuracy import accuracy
from relinearize.relu.counting import relu_total
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes, to_masked

OPTIONS = {"run": None, "accelerator": "auto", "root": None, "batch_size": 1000}
EVALUATION = "evaluation.json"


def evaluate_run(arguments: list[str], console: Console | None = None) -> dict[str, float]:
    """Test the run of `arguments` (run=FOLDER [accelerator=...] [root=FOLDER OF IMAGES] [batch_size=...]).

    Checks that the mask fits the network and keeps as many ReLUs as the record says, prints the record's accuracy
    beside the new one and writes evaluation.json into the run's folder. Returns that file's content.
    """
    options = parse_options(arguments)
    folder = Path(options["run"])
    batch_size = int(options["batch_size"]) if str(options["batch_size"]).isdigit() else 0
    if batch_size < 1:
        raise UserError(f"batch_size={options['batch_size']}: give a whole number of images, at least 1")
    for file in (RECORD_FILE, CONFIG, MASK, WEIGHTS):
        if not (folder / file).is_file():
            raise UserError(f"run={folder} is no finished run: {file} is missing there")
    record = Record.read(folder / RECORD_FILE)
    config = OmegaConf.load(folder / CONFIG)
    if options["root"] is not None:
        config.dataset.root = options["root"]
        config.dataset.source.root = options["root"]
    accelerator = resolve_accelerator(options["accelerator"])

    network = all_relu_network(config, student=True)
    mask, metadata = Mask.from_file(folder / MASK)
    backbone = config.backbone
    metadata.check(backbone.name, backbone.get("convention", "all"), tuple(network_input(record)))
    if mask.count != record.budget.met:
        raise UserError(f"{folder / MASK} keeps {mask.count:,} ReLUs, but the record says {record.budget.met:,}")
    mask.check_fits(site_shapes(network.network))
    to_masked(network.network, mask)
    network.network.load_state_dict(match_weights(network.network, read_weights(folder / WEIGHTS), folder / WEIGHTS))
    network.to(accelerator)

    data = open_images(config, open_source(config), accelerator, holdout=0.0)
    batches = data.test_loader(batch_size)
    found = accuracy(network, track(batches, description="test", console=Console(stderr=True), transient=True))
    result = {
        "test": found,
        "n_test": data.sizes["test"],
        "relu/count": relu_total(network.network),
        "record/test": record.accuracy.test,
        "record/relu/count": record.budget.met,
    }
    write_json(folder / EVALUATION, result)
    table = Table(title=f"{record.name} on {record.dataset.title}", title_justify="left")
    for column in ("", "record", "now"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("ReLUs", f"{record.budget.met:,}", f"{result['relu/count']:,}")
    table.add_row(f"test accuracy, % (n = {data.sizes['test']:,})", f"{record.accuracy.test:.2f}", f"{found:.2f}")
    (console or Console()).print(table)
    return result


def network_input(record: Record) -> tuple[int, int, int]:
    """(C, H, W) of the record's images."""
    return (record.dataset.channels, record.dataset.image_size, record.dataset.image_size)


def parse_options(arguments: list[str]) -> dict[str, str]:
    """key=value arguments over `OPTIONS`; UserError for unknown keys and a missing run."""
    options = dict(OPTIONS)
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in OPTIONS:
            raise UserError(f"evaluate does not know {argument!r}; valid: {', '.join(f'{name}=' for name in OPTIONS)}")
        options[key] = value
    if not options["run"]:
        raise UserError("evaluate needs run=FOLDER, the folder of a finished run (below outputs/runs)")
    return options

"""Predicted costs as a table for the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relinearize.private_inference.cost.prediction import Prediction, predict
from relinearize.private_inference.cost.presets import Preset
from relinearize.private_inference.cost.workload import Workload

COLUMNS = ("preset", "online s", "online MB", "messages", "offline s", "offline MB", "stored MB, client / server")


def print_costs(
    title: str, workload: Workload, presets: Sequence[Preset], console: Console | None = None
) -> list[Prediction]:
    """Print what one image costs under each preset, and what goes into it. Returns the predictions."""
    predictions = [predict(preset, workload) for preset in presets]
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, title=escape(title), title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "preset" else "right", no_wrap=True)
    for prediction in predictions:
        table.add_row(*cells(prediction))
    console = console or Console()
    shown = console if console.is_terminal else Console(file=console.file, width=max(console.width, 120))
    shown.print(table)
    for line in (*legend(predictions), described(workload)):
        shown.print(line, soft_wrap=True, highlight=False, markup=False)
    return predictions


def cells(prediction: Prediction) -> list[str]:
    """A row; "-" for what the protocol does not have."""
    online, offline = prediction.online, prediction.offline
    on_network = prediction.preset.network is not None
    stored = (prediction.client_storage, prediction.server_storage)
    return [
        escape(prediction.preset.name),
        significant(online.seconds),
        significant(online.bytes / 1e6) if on_network else "-",
        f"{online.messages:,.0f}" if on_network else "-",
        "-" if offline is None else significant(offline.seconds),
        "-" if offline is None else significant(offline.bytes / 1e6),
        f"{significant(stored[0] / 1e6)} / {significant(stored[1] / 1e6)}" if any(stored) else "-",
    ]


def legend(predictions: Sequence[Prediction]) -> list[str]:
    """What the presets' names stand for, each protocol and network once."""
    protocols = {one.preset.protocol.name: one.preset.protocol.title for one in predictions}
    networks = dict.fromkeys(one.preset.network.text for one in predictions if one.preset.network is not None)
    lines = [f"{name}: {title}" for name, title in protocols.items()]
    if networks:
        lines.append(f"{', '.join(networks)}: T_loopback + messages * RTT/2 + bytes of the busier direction / rate")
    return lines


def described(workload: Workload) -> str:
    """The counts that went in."""
    text = f"counted: {workload.relus:,} ReLUs at {workload.live_sites} sites"
    work = workload.linear
    if work is None:
        return f"{text}; linear layers unknown, their cost is not in the numbers"
    text += f", {work.layers} linear layers with {work.multiplications / 1e6:,.1f} M multiplications"
    if work.pool_comparisons:
        text += f", {work.pool_comparisons:,} comparisons of max-pools"
    return text


def significant(value: float) -> str:
    """Three digits that count, no exponent."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"

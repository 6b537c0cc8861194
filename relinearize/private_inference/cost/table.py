"""Predicted costs as a table for the terminal."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from relinearize.private_inference.cost.presets import Preset, predict
from relinearize.private_inference.cost.workload import Workload
from relinearize.records.inference import LayerCost
from relinearize.terminal import new_table, print_lines, print_table, right_column

LAYER_COLUMNS = ("layer", "operation", "ReLUs kept", "comparisons", "MB", "share", "messages", "seconds")
COLUMNS = ("online s", "online MB", "messages", "offline s", "offline MB", "stored MB, client / server")


def print_costs(
    title: str, workload: Workload, presets: Sequence[Preset], console: Console | None = None, batch: int = 1
) -> None:
    """Print what one inference costs under each preset, what the presets' names stand for, and the counts that went in.

    workload: of a batch of `batch` images. "-" stands for what a protocol does not have.
    """
    columns = ["preset", *map(right_column, COLUMNS), *([right_column("s / image")] if batch > 1 else [])]
    table = new_table(f"{title}, {'one image' if batch == 1 else f'a batch of {batch} images'}", *columns)
    for found in (predict(preset, workload) for preset in presets):
        online, offline, on_network = found.online, found.offline, found.preset.network is not None
        stored = [significant(size / 1e6) for size in (found.client_storage, found.server_storage)]
        table.add_row(
            escape(found.preset.name),
            significant(online.seconds),
            significant(online.bytes / 1e6) if on_network else "-",
            f"{online.messages:,.0f}" if on_network else "-",
            "-" if offline is None else significant(offline.seconds),
            "-" if offline is None else significant(offline.bytes / 1e6),
            " / ".join(stored) if found.client_storage or found.server_storage else "-",
            *([significant(online.seconds / batch)] if batch > 1 else []),
        )
    lines = list(dict.fromkeys(f"{one.protocol.name}: {one.protocol.title}" for one in presets))
    if networks := dict.fromkeys(one.network.text for one in presets if one.network is not None):
        lines.append(f"{', '.join(networks)}: T_loopback + messages * RTT/2 + bytes of the busier direction / rate")
    counted = f"counted: {workload.relus:,} ReLUs at {workload.live_sites} sites"
    counted += f", {workload.affine:,} affine at {workload.affine_sites}" if workload.affine else ""
    counted += f", {workload.quadratic:,} quadratics at {workload.quadratic_sites}" if workload.quadratic else ""
    if (work := workload.linear) is None:
        counted += "; linear layers unknown, their cost is not in the numbers"
    else:
        counted += f", {work.layers} linear layers with {work.multiplications / 1e6:,.1f} M multiplications"
        counted += f", {work.pool_comparisons:,} comparisons of max-pools" if work.pool_comparisons else ""
    unpriced = {one.protocol.name: names for one in presets if (names := one.protocol.unpriced(workload.features()))}
    lines += [
        f"{name}: the cost of {' and '.join(names)} is not known and not included" for name, names in unpriced.items()
    ]
    print_table(table, console)
    print_lines([*lines, counted], console)


def layer_texts(layers: Sequence[LayerCost]) -> list[list[str]]:
    """A row of texts per layer, and one for all together; LAYER_COLUMNS says which."""
    relus, positions, comparisons, seconds, size, messages = (
        sum(getattr(layer, name) for layer in layers)
        for name in ("relus", "positions", "comparisons", "seconds", "bytes", "messages")
    )
    together = LayerCost("together", "", relus, positions, comparisons, seconds, size, messages)
    return [
        [
            layer.name,
            layer.op,
            f"{layer.relus:,} of {layer.positions:,}" if layer.positions else "",
            f"{layer.comparisons:,}" if layer.comparisons else "",
            significant(layer.bytes / 1e6),
            f"{100 * layer.bytes / size:.1f} %" if size else "",
            f"{layer.messages:,.0f}",
            significant(layer.seconds),
        ]
        for layer in (*layers, together)
    ]


def whose(batch: int) -> str:
    """Behind the title of a table of layers: of a batch their costs and counts are not of the same images."""
    return f"; costs of a batch of {batch} images, ReLUs and comparisons of one" if batch > 1 else ""


def print_layers(title: str, layers: Sequence[LayerCost], console: Console | None = None, batch: int = 1) -> None:
    """layers: their costs are of `batch` images, their counts of one."""
    table = new_table(f"{title}{whose(batch)}", *LAYER_COLUMNS[:2], *map(right_column, LAYER_COLUMNS[2:]))
    *rows, together = layer_texts(layers)
    for row in rows:
        table.add_row(*map(escape, row))
    table.add_section()
    table.add_row(*together)
    print_table(table, console)


def significant(value: float) -> str:
    """Three digits that count, no exponent."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"

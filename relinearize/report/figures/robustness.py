"""robustness.png: clean, corrupted and attacked accuracy against ReLU count, one panel per dataset.

Every line belongs to one route; the oracle's reading is not drawn.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from relinearize.report.figures import canvas
from relinearize.report.figures.style import method_colours
from relinearize.report.tables.measures import Column
from relinearize.report.tables.robustness import RobustTable, Row
from relinearize.report.tables.text import compact_count

CLEAN, CORRUPTED, ATTACKED = ("-", "o"), ((0, (5, 2)), "s"), ((0, (1, 1.6)), "^")  # line and marker


@canvas.styled
def draw_robustness(tables: Sequence[RobustTable]) -> bytes:
    """The figure as PNG bytes."""
    colours = method_colours(row.first.method for table in tables for row in table.rows)
    figure = canvas.new_figure(7.4 * len(tables) + 1.4, 5.6)
    grid = figure.subplots(1, len(tables), squeeze=False)
    lines = [_draw_table(axes, table, colours) for axes, table in zip(grid.flat, tables, strict=True)]
    figure.set_figheight(3.8 + 0.19 * max(lines))
    return canvas.png(figure)


def attacked_column(table: RobustTable) -> Column | None:
    """The attack to draw: that of most rows, among these the strongest (the lowest mean)."""
    return _of_most_rows(table, [column for column in table.columns if column.is_attack])


def corrupted_column(table: RobustTable) -> Column | None:
    """The NPA to draw, likewise: one line never joins values on other corrupted images."""
    return _of_most_rows(table, [column for column in table.columns if column.name == "npa"])


def _of_most_rows(table: RobustTable, columns: Sequence[Column]) -> Column | None:
    known = {}
    for column in columns:
        values = [row.cells[column.key].value for row in table.rows if column.key in row.cells]
        if values:
            known[column] = (-len(values), statistics.fmean(values))
    return min(known, key=known.__getitem__, default=None)


def _draw_table(axes: Axes, table: RobustTable, colours: dict[str, str]) -> int:
    """Returns how many lines the legend below has."""
    corrupted, attacked = corrupted_column(table), attacked_column(table)
    drawn = [(table.columns[0], "clean (CA)", CLEAN)]
    if corrupted is not None:
        drawn.append((corrupted, f"corrupted ({corrupted.title})", CORRUPTED))
    if attacked is not None:
        drawn.append((attacked, f"{attacked.title} (AdvA)", ATTACKED))
    series: dict[tuple, list[Row]] = {}
    for row in table.rows:
        series.setdefault((row.label, row.network, row.route), []).append(row)
    handles = []
    for (method, network, route), rows in series.items():
        colour = shade(colours, rows[0], table)
        look = {"color": colour, "markeredgecolor": colour, "markerfacecoloralt": "white"}
        look["fillstyle"] = {"adversarial": "none", "augmix": "bottom"}.get(route, "full")
        for column, _, (line, marker) in drawn:
            # Rows come sorted by ReLUs. A line ends where values were measured on other images.
            points = [(row.relus, row.cells[column.key]) for row in rows if column.key in row.cells]
            for _, alike in itertools.groupby(points, key=lambda point: point[1].basis):
                joined = list(alike)
                measured = {"linewidth": 1.7, "markersize": 5.8, "linestyle": line, "marker": marker, **look}
                axes.errorbar(
                    [relus for relus, _ in joined],
                    [measure.value for _, measure in joined],
                    yerr=[measure.deviation or 0.0 for _, measure in joined],
                    elinewidth=1.1,
                    capsize=2.5 if any(measure.deviation for _, measure in joined) else 0,
                    **measured,
                )
        label = method + (f", {network}" if len(table.networks) > 1 else "") + (f", route {route}" * (route != "-"))
        handles.append(Line2D([], [], linewidth=1.7, marker="o", label=label, **look))
    handles += [
        Line2D([], [], color=canvas.INK, ls=line, marker=marker, ms=5.5, label=f"{name}, {table.basis(column)}")
        for column, name, (line, marker) in drawn
    ]
    _set_axes(axes, table)
    look = {"fontsize": 8.6, "columnspacing": 1.8, "handlelength": 4.2, "borderaxespad": 0}
    return canvas.legend_below(axes, handles, -0.14, most=2, longer=6, **look)


def shade(colours: Mapping[str, str], row: Row, table: RobustTable) -> tuple[float, ...]:
    """The method's colour for the first variant and network that have it, lighter ones for the others: line and marker
    say other things."""
    colour = colours[row.first.method]
    alike = [(one.label, one.network) for one in table.rows if colours[one.first.method] == colour]
    variants = list(dict.fromkeys(alike))
    white = 0.5 * variants.index((row.label, row.network)) / max(1, len(variants) - 1)
    return tuple(part + white * (1 - part) for part in to_rgb(colour))


def _set_axes(axes: Axes, table: RobustTable) -> None:
    axes.margins(x=0.1)
    canvas.log_axis(axes, compact_count)
    axes.set_ylim(bottom=-2)
    canvas.grid_lines(axes)
    axes.set_xlabel("ReLUs kept per image (log scale)")
    axes.set_ylabel("accuracy (%)")
    canvas.panel_title(axes, table.title, table.networks)

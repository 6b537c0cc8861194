"""Numbers, names, Markdown and CSV as every table and figure of a report writes them."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a run prints its row without pandas
    from pandas import DataFrame


def compact_count(count: float) -> str:
    """12900 -> "12.9K", 491520 -> "492K", 1359872 -> "1.36M"."""
    for size, letter in ((1e6, "M"), (1e3, "K")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return f"{count:.3g}"


def share_text(share: float) -> str:
    """0.1234 -> "12 %", 0.0123 -> "1.2 %", 0.0001 -> "< 0.1 %"."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.{1 if 0 < share < 0.0995 else 0}f} %"


def spread_text(mean: float, std: float | None, digits: int = 2) -> str:
    """Mean and, of several values, standard deviation (NaN or None: of one value)."""
    text = f"{mean:.{digits}f}"
    return text if std is None or std != std else f"{text} ± {std:.{digits}f}"


def method_order(name: str) -> tuple[bool, str]:
    """Where a method stands among others: the yardstick comes last."""
    return name == "random", name


def network_name(backbone: str, width: int | None, convention: str) -> str:
    """The neural network, for people."""
    return f"{backbone}{'' if width is None else f' (width {width})'}, {convention} convention"


def left_out_note(curves: Collection[int]) -> str:
    """Below a matrix of searches and fine-tunings: how many curves have no cell; "" if all have."""
    count = len(curves)
    reason = "a cell shows the first of several settings, and of repeated runs"
    return f"{count} curve{'s' * (count != 1)} left out: {reason}." if count else ""


def markdown(template: str, filters: Mapping[str, Callable] | None = None, **values: Any) -> str:
    """A file of templates/ with `values` put in; `filters`: functions for it beside `plain`."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("relinearize.report", "templates"), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, **(filters or {})}
    return environment.get_template(template).render(values)


def markdown_table(table: "DataFrame", left: Sequence[str]) -> str:
    """A table of texts without a newline at its end; columns but those in `left` are flush right. HTML stays text."""
    marks = ["---" if title in left else "---:" for title in table]
    safe = str.maketrans({"|": "\\|", "<": "&lt;"})
    rows = [[re.sub(r"\s*\n\s*", " ", cell).translate(safe) for cell in row] for row in (table, *table.values)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], marks, *rows[1:]))


def plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    safe = {"&": "&amp;", "<": "&lt;", "|": "&#124;", "*": "&#42;", "_": "&#95;", "`": "&#96;"}
    return " ".join(str(text).split()).translate(str.maketrans(safe))


def csv_text(rows: "Sequence[dict[str, Any]] | DataFrame", columns: Sequence[str] | None = None) -> str:
    """A line per row; unknown values are empty. Texts that a spreadsheet would compute stand behind an apostrophe."""
    from pandas import DataFrame

    def safe(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and re.match(r"[=+@]|-\D", cell) else cell

    table = DataFrame(rows, columns=columns, dtype=object)
    # Not by table.map, which makes fractions of whole numbers where a cell of their column is empty.
    cells = [[safe(cell) for cell in row] for row in table.to_numpy()]
    return DataFrame(cells, columns=table.columns, dtype=object).to_csv(index=False, lineterminator="\n")

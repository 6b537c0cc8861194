#!/usr/bin/env python3
"""SNL's search here beside a run of its released code: ReLUs kept after each epoch, and accuracies at each budget.

    python scripts/compare_official.py RUNS OFFICIAL.jsonl --out FOLDER

RUNS holds the finished runs of `experiment=reduced/snl_official_cifar10_resnet18w16`. A line of OFFICIAL.jsonl is an
epoch of the released search (`stage`: "search", `epoch`, `count`) or a fine-tuning ("finetune", `budget`, `met`,
`last`). Writes official.md and official.png.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from relinearize.errors import UserError
from relinearize.files import write_bytes, write_text
from relinearize.records.run import Record, find_records
from relinearize.report.figures.canvas import GREY_TEXT, grid_lines, log_ticks, new_figure, png, styled
from relinearize.report.figures.style import method_colours
from relinearize.report.tables.text import markdown_table


def read_official(file: Path) -> pd.DataFrame:
    """Raises UserError, in one line, for a file that cannot be read or is another one."""
    try:
        rows = pd.read_json(file, lines=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}".splitlines()[0]) from None
    if missing := {"stage", "epoch", "count", "budget", "met", "last"} - set(rows):
        raise UserError(f"{file}: no line has {', '.join(sorted(missing))}; see --help for what a line holds")
    return rows


def trajectories(records: list[Record], official: pd.DataFrame) -> pd.DataFrame:
    """ReLUs kept after each epoch of both searches, as far as both went: columns `released` and `here`."""
    searches = [record.stages["search"].history for record in records if "search" in record.stages]
    searches = [history for history in searches if history and "relu/count" in history[0]]
    if not searches:
        raise UserError("none of these runs has searched as SNL does; give those of method=snl")
    theirs = official[official["stage"] == "search"].set_index("epoch")["count"]
    # A row per epoch. The last one, of the moment in which a budget was met, counts the epochs done instead.
    ours = pd.Series([row["relu/count"] for row in max(searches, key=len)])
    return pd.DataFrame({"released": theirs, "here": ours}).dropna().astype(int)


def budgets(records: list[Record], official: pd.DataFrame) -> pd.DataFrame:
    """Texts: a row per budget that both have, with ReLUs met and test accuracy after the last epoch."""
    theirs = official[official["stage"] == "finetune"].set_index("budget")
    found = sorted(
        (record for record in records if record.budget.asked in theirs.index), key=lambda one: -one.budget.asked
    )
    rows = [(record, theirs.loc[record.budget.asked]) for record in found]
    return pd.DataFrame(
        {
            "ReLUs asked": [f"{ours.budget.asked:,}" for ours, _ in rows],
            "seed": [str(ours.seed) for ours, _ in rows],
            "met, released": [f"{int(other['met']):,}" for _, other in rows],
            "met, here": [f"{ours.budget.met:,}" for ours, _ in rows],
            "test, released": [f"{other['last']:.2f}" for _, other in rows],
            "test, here": [f"{ours.accuracy.test_last:.2f}" for ours, _ in rows],
        }
    )


@styled
def draw(found: pd.DataFrame) -> bytes:
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.plot(found.index + 1, found["released"], "o", color=GREY_TEXT, markersize=4, label="released code")
    axes.plot(found.index + 1, found["here"], color=method_colours(["snl"])["snl"], label="relinearize")
    axes.set_yscale("log")
    ticks = log_ticks(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("epoch of the search")
    axes.set_ylabel("ReLUs kept (log scale)")
    axes.legend(frameon=False)
    grid_lines(axes)
    return png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("official", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    try:
        records = [record for _, record in find_records([arguments.runs])]
        official = read_official(arguments.official)
        found = trajectories(records, official)
    except UserError as error:
        sys.exit(f"compare_official.py: error: {error}")
    apart = (found["here"] / found["released"] - 1).abs()
    text = markdown_table(budgets(records, official), left=())
    text += f"\n\n{len(found)} epochs of the search: ReLUs kept differ by {apart.median():.2%} in the median, "
    text += f"by {apart.max():.2%} at most.\n"
    write_text(arguments.out / "official.md", text)
    write_bytes(arguments.out / "official.png", draw(found))
    print(text, end="")


if __name__ == "__main__":
    main()

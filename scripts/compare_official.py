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


def trajectories(records: list[Record], official: pd.DataFrame) -> tuple[pd.Series, dict[int, pd.Series]]:
    """ReLUs kept after each epoch, by epoch: the released search's, and, by seed, those of the longest search here."""
    longest: dict[int, list] = {}
    for record in records:
        history = record.stages["search"].history if "search" in record.stages else []
        if history and "relu/count" in history[0] and len(history) > len(longest.get(record.seed, [])):
            longest[record.seed] = history
    if not longest:
        raise UserError("none of these runs has searched as SNL does; give those of method=snl")
    theirs = official[official["stage"] == "search"].set_index("epoch")["count"].astype(int)
    # A row per epoch. The last one, of the moment in which a budget was met, counts the epochs done instead.
    return theirs, {seed: pd.Series([row["relu/count"] for row in longest[seed]]) for seed in sorted(longest)}


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
def draw(theirs: pd.Series, ours: dict[int, pd.Series]) -> bytes:
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    axes.plot(theirs.index + 1, theirs, "o", color=GREY_TEXT, markersize=4, label="released code")
    for number, here in enumerate(ours.values()):
        label = f"relinearize{'' if len(ours) == 1 else f', {len(ours)} seeds'}" if not number else None
        axes.plot(here.index + 1, here, color=method_colours(["snl"])["snl"], linewidth=1, label=label)
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
        theirs, ours = trajectories(records, official)
    except UserError as error:
        sys.exit(f"compare_official.py: error: {error}")
    text = markdown_table(budgets(records, official), left=()) + "\n"
    for seed, here in ours.items():
        apart = (here / theirs - 1).abs().dropna()
        text += f"\nSeed {seed}, {len(apart)} epochs of the search: ReLUs kept differ by {apart.median():.2%} in the "
        text += f"median, by {apart.max():.2%} at most."
    text += "\n"
    write_text(arguments.out / "official.md", text)
    write_bytes(arguments.out / "official.png", draw(theirs, ours))
    print(text, end="")


if __name__ == "__main__":
    main()

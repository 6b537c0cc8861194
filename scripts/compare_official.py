#!/usr/bin/env python3
"""SNL's search here beside a run of its released code: ReLUs kept after each epoch, and accuracies at each budget.

    python scripts/compare_official.py RUNS OFFICIAL.jsonl --out FOLDER

RUNS holds the finished runs of `experiment=reduced/snl_official_cifar10_resnet18w16`. A line of OFFICIAL.jsonl is an
epoch of the released search (`stage`: "search", `epoch`, `count`) or a fine-tuning ("finetune", `budget`, `met`,
`last`). Writes official.md and official.png.
"""

import argparse
from pathlib import Path

import pandas as pd

from relinearize.files import write_bytes, write_text
from relinearize.records.run import Record, find_records
from relinearize.report.figures.canvas import GREY_TEXT, grid_lines, new_figure, png, styled
from relinearize.report.figures.style import method_colours
from relinearize.report.tables.text import markdown_table


def trajectories(record: Record, official: pd.DataFrame) -> pd.DataFrame:
    """ReLUs kept after each epoch of both searches, as far as both went: columns `released` and `here`."""
    theirs = official[official["stage"] == "search"].set_index("epoch")["count"]
    ours = pd.DataFrame(record.stages["search"].history).set_index("epoch")["relu/count"]
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
    records = [record for _, record in find_records([arguments.runs])]
    official = pd.read_json(arguments.official, lines=True)
    found = trajectories(records[0], official)
    apart = (found["here"] / found["released"] - 1).abs()
    text = markdown_table(budgets(records, official), left=())
    text += f"\n\n{len(found)} epochs of the search: ReLUs kept differ by {apart.median():.2%} in the median, "
    text += f"by {apart.max():.2%} at most.\n"
    write_text(arguments.out / "official.md", text)
    write_bytes(arguments.out / "official.png", draw(found))
    print(text, end="")


if __name__ == "__main__":
    main()

"""A run beside the released SNL code: epochs and budgets that both have, in a table and a figure."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from fake_records import fake_record, write_records

SCRIPT = Path(__file__).parents[2] / "scripts/compare_official.py"


def typed(monkeypatch, folder):
    words = ["compare_official.py", str(folder / "runs"), str(folder / "official.jsonl"), "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_epochs_and_budgets_that_both_have_are_compared(tmp_path, monkeypatch, capsys):
    runs = [fake_record("snl", asked) for asked in (12_288, 61_440, 30_720)]
    epochs = runs[0].stages["search"].history
    rows = [
        {"stage": "search", "epoch": epoch, "count": row["relu/count"] * (2 if epoch == 3 else 1)}
        for epoch, row in enumerate(epochs)
    ]
    epochs[-1]["epoch"] = float(len(epochs))  # as a search leaves it that ends at its budget
    runs.append(fake_record("snl", 12_288, seed=1))
    runs[-1].stages["search"].history[:] = [{**row, "relu/count": 2 * row["relu/count"]} for row in epochs[:30]]
    write_records(runs, tmp_path / "runs")
    rows += [{"stage": "finetune", "budget": asked, "met": asked - 5, "last": 70.125} for asked in (12_288, 61_440)]
    (tmp_path / "official.jsonl").write_text("\n".join(map(json.dumps, rows)))
    typed(monkeypatch, tmp_path)
    text = capsys.readouterr().out
    large = f"| 61,440 | 0 | 61,435 | 61,440 | 70.12 | {runs[1].accuracy.test_last:.2f} |"
    assert text == (tmp_path / "official.md").read_text() and text.count("\n| ") == 4
    assert text.splitlines()[2] == large
    assert text.endswith(
        "|\n\nSeed 0, 40 epochs of the search: ReLUs kept differ by 0.00% in the median, by 50.00% at most."
        "\nSeed 1, 30 epochs of the search: ReLUs kept differ by 100.00% in the median, by 100.00% at most.\n"
    )
    assert (tmp_path / "official.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("method", "text", "words"),
    [
        (None, "", "runs"),
        ("snl", None, "official.jsonl cannot be read"),
        ("snl", "no JSON", "official.jsonl cannot be read"),
        ("snl", '{"stage": "search", "epoch": 0}', "no line has budget, count, last, met"),
        ("random", '{"stage": "finetune", "epoch": 0, "count": 1, "budget": 1, "met": 1, "last": 1}', "method=snl"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, method, text, words):
    if method:
        write_records([fake_record(method)], tmp_path / "runs")
    if text is not None:
        (tmp_path / "official.jsonl").write_text(text)
    with pytest.raises(SystemExit, match=words) as caught:
        typed(monkeypatch, tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "official.md").exists()

"""The report as a whole: three files, a table for the terminal, no torch."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
from fake_records import REPORT_FILES, fake_record, fake_sweep, write_records
from rich.console import Console

from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import one_preset
from relinearize.records.run import PredictionsRecord
from relinearize.report.figures.pareto import draw_pareto
from relinearize.report.page.page import render_page
from relinearize.report.report import Report, report_files, write_report
from relinearize.report.tables.terminal import print_runs


def test_three_files_in_the_first_folder_or_where_asked(tmp_path):
    first = write_records(fake_sweep(seeds=(0,)), tmp_path / "a")
    second = write_records([fake_record(seed=1)], tmp_path / "b")
    paths = write_report(Report([first, second]))
    names = ("pareto.csv", "pareto.png", "report.html")
    assert [paths[name] for name in names] == [first / name for name in names]
    assert all(paths[name].stat().st_size > 500 for name in names)
    elsewhere = write_report(Report([str(second)]), str(tmp_path / "out" / "deep"))
    assert elsewhere["report.html"] == tmp_path / "out" / "deep" / "report.html"
    assert sorted(path.name for path in elsewhere["report.html"].parent.iterdir()) == REPORT_FILES


def test_published_points_can_be_left_out(tmp_path):
    runs = write_records(fake_sweep(seeds=(0,)), tmp_path / "runs")
    (drawn,), (without,) = (Report([runs], published=some).panels for some in (True, False))
    assert not drawn.published.empty and without.published.empty
    assert drawn.points.equals(without.points)
    assert '"published":[]' in render_page([without], {}) and '"published":[]' not in render_page([drawn], {})
    assert draw_pareto([drawn]) != draw_pareto([without])


@pytest.mark.usefixtures("undrawn")
def test_what_a_record_says_of_its_predictions_has_columns_and_figures(tmp_path):
    """Two seeds; the classes of the first lost 2 and 10 points against the teacher, of the second 6 and 2."""
    teacher = PredictionsRecord(per_class=[90, 80], ece=1, nll=0.25)
    records = []
    for seed, (per_class, ece, nll) in enumerate([([88, 70], 3, 0.5), ([84, 78], 5, 0.75)]):
        given = {
            "predictions": PredictionsRecord(per_class=per_class, ece=ece, nll=nll),
            "teacher_predictions": teacher,
        }
        record = fake_record(seed=seed)
        records.append(record.model_copy(update={"accuracy": record.accuracy.model_copy(update=given)}))
    folder = write_records(records, tmp_path / "runs")
    paths = write_report(Report([folder]))
    with open(paths["pareto.csv"], newline="") as file:
        (row,) = csv.DictReader(file)
    means = {"worst_class": 74, "ece": 4, "nll": 0.625, "class_spread": 6}
    stds = {"worst_class": 32**0.5, "ece": 2**0.5, "nll": 0.125 * 2**0.5, "class_spread": 8**0.5}
    assert {name: float(row[f"{name}_mean"]) for name in means} == means
    assert {name: float(row[f"{name}_std"]) for name in stds} == pytest.approx(stds, abs=1e-4)
    assert {"worst_class.png", "calibration.png"} < set(paths)
    without = write_report(Report([write_records([fake_record()], tmp_path / "earlier")]))
    assert not {"worst_class.png", "calibration.png"} & set(without)


@pytest.mark.usefixtures("undrawn")
def test_a_report_can_be_made_again_and_names_no_machine(tmp_path):
    folder = write_records([fake_record()], tmp_path)
    paths = write_report(Report([folder]))
    assert str(tmp_path) not in paths["report.html"].read_text()
    assert next(report_files(Report([folder]), folder)) == ("pareto.csv", paths["pareto.csv"].read_text())


def test_what_an_earlier_report_had_to_show_does_not_stay(tmp_path):
    folder = write_records([fake_record()], tmp_path / "runs")
    for name in ("pareto_bytes.png", "robustness.md", "mine.png"):
        (folder / name).write_text("")
    written = write_report(Report([folder], preset=one_preset("delphi_compute")))
    assert {path.name for path in folder.iterdir() if path.is_file() and not path.stat().st_size} == {"mine.png"}
    assert {path.name for path in folder.iterdir() if path.is_file()} - {"mine.png"} == set(written)


def test_errors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="at least one folder"):
        write_report(Report([]))
    with pytest.raises(UserError, match=r"holds no record\.json"):
        write_report(Report([tmp_path]))
    folder = write_records([fake_record()], tmp_path / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(Report([folder]), tmp_path / "file")


def printed(records, **options):
    file = io.StringIO()
    print_runs(records, Console(file=file, **options))
    return file.getvalue()


def test_terminal_table_shows_the_numbers():
    record = fake_record("snl", 35_000, name="[bold]mine[/bold]")
    text = printed([record, fake_record("random", 35_000)])
    line = next(line for line in text.splitlines() if "mine" in line)
    assert "[bold]mine[/bold]" in line
    for part in ("snl", "35,000", "25.13", f"{record.accuracy.test:.2f}", f"{record.accuracy.test_last:.2f}", "92.60"):
        assert part in line
    assert text.index("mine") < text.index("random")


def test_terminal_table_without_teacher_and_with_two_datasets():
    text = printed([fake_record(teacher=False), fake_record(dataset="cifar100", title="CIFAR-100 (PNG)")], width=200)
    assert "CIFAR-100 (PNG)" in text
    assert " - " in text


@pytest.mark.slow
def test_the_report_never_imports_torch(tmp_path):
    folder = write_records([fake_record()], tmp_path)
    code = (
        "import sys\n"
        "import relinearize.report\n"
        "heavy = {'torch', 'matplotlib', 'pydantic', 'rich', 'pandas', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from relinearize.report.tables.terminal import print_runs\n"
        "assert not {'matplotlib', 'pandas'} & set(sys.modules), 'a run prints its table without them'\n"
        "from relinearize.report.report import Report\n"
        "from relinearize.report.report import write_report\n"
        f"write_report(Report([{str(folder)!r}]))\n"
        "from relinearize.records.run import find_records\n"
        f"print_runs([record for _, record in find_records([{str(folder)!r}])])\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "snl" in done.stdout

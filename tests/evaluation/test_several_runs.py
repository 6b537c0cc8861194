"""`relinearize evaluate` of several runs: which folders are meant, and that one failure stops no other run."""

import shutil
import sys

import pytest
from quick_runs import quick_run
from rich.console import Console
from robust_runs import FGSM, SETTINGS

from relinearize import cli
from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.evaluate import run_folders
from relinearize.errors import UserError
from relinearize.records.robustness import ROBUST_FILE
from relinearize.records.run import RECORD_FILE


@pytest.fixture
def runs(tmp_path):
    """Folders a and b with a record, c without, a file, and one whose name looks like a list."""
    for name in ("b", "a", "c", "x,y"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / RECORD_FILE).write_text("{}")
    (tmp_path / "pareto.csv").write_text("")
    return tmp_path


def test_one_folder_a_list_or_a_pattern(runs):
    a, b, c = (runs / name for name in "abc")
    assert run_folders(str(c)) == [c]
    assert run_folders(f"{c}, {a}") == [c, a]
    assert run_folders(f"{runs}/*") == [a, b]
    assert run_folders(f"{b},{runs}/*,{a}") == [b, a]
    assert run_folders(str(runs / "x,y")) == [runs / "x,y"]
    with pytest.raises(UserError, match="run=, names no folder"):
        run_folders(",")
    with pytest.raises(UserError, match=r"run=.*/z\* matches no finished run"):
        run_folders(f"{runs}/z*")
    place = runs / "c" / "[x]"  # as it is named, since it is there
    shutil.copytree(a, place / "run")
    assert run_folders(f"{place}/*") == [place / "run"]


@pytest.fixture(scope="module")
def finished(random_masks, tmp_path_factory):
    """The folder of two finished runs."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(random_masks[1].parents[1], folder, dirs_exist_ok=True)
    settings = ["budget.fraction=0.5", "method.teacher.epochs=12", "method.finetune.epochs=1"]
    quick_run(folder, *settings, method="random")
    return folder / "runs"


def test_all_runs_of_a_pattern_are_evaluated(finished):
    found = evaluate_run([f"run={finished}/*", *SETTINGS, *FGSM], Console(quiet=True))
    assert len(found) == 2 and len(list(finished.glob(f"*/{ROBUST_FILE}"))) == 2
    assert len({records[0].key for records in found}) == 2


def test_a_failure_stops_no_other_run_and_the_status_says_so(finished, tmp_path, monkeypatch, capfd):
    names = [folder.name for folder in sorted(finished.iterdir()) if (folder / RECORD_FILE).is_file()]
    for number, name in enumerate((names[0], names[0], names[1])):
        shutil.copytree(finished / name, tmp_path / str(number), ignore=shutil.ignore_patterns("robustness*"))
    (tmp_path / "0" / "weights.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr(sys, "path", sys.path[:])
    folders = ",".join(str(tmp_path / name) for name in ("0", "1", "nowhere", "2"))
    monkeypatch.setattr(sys, "argv", ["relinearize", "evaluate", f"run={folders}", *SETTINGS, *FGSM])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("relinearize: ")]
    assert len(lines) == 3
    assert "0: " in lines[0] and "nowhere: run=" in lines[1]
    assert lines[2] == "relinearize: error: 2 of 4 runs could not be evaluated, see above"
    assert [(tmp_path / name / ROBUST_FILE).is_file() for name in "012"] == [False, True, True]

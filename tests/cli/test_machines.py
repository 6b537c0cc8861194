"""What a machine may lack: room on a disk, a folder for temporary files, a home; and what it may forbid."""

import contextlib
import os
import pwd
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
from fake_inferences import fake_inference
from quick_runs import SMALL, quick_run, sealed_again

from relinearize import files
from relinearize.evaluation.clean import EVALUATION
from relinearize.files import move_into, user_cache, write_bytes, write_json
from relinearize.records.robustness import ROBUST_FILE
from relinearize.records.run import Record
from relinearize.records.store import CHECKPOINT, MASK
from relinearize.relu.mask import Mask
from relinearize.training.checkpoint import read_checkpoint

DEBUG = ("scale=debug", "method=random", "budget=tenth")


@contextlib.contextmanager
def files_up_to(size):
    """No file of this process can be larger (bytes), as on a full disk; over before pytest writes to a file itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def refused(monkeypatch):
    """refused(folder): files are written anywhere but below it, by whomever: these tests may be root's."""

    def refuse(folder):
        real = files.os.replace

        def replace(source, target):
            if Path(target).absolute().is_relative_to(folder):
                raise OSError(30, os.strerror(30), str(source), None, str(target))
            real(source, target)

        monkeypatch.setattr(files.os, "replace", replace)

    return refuse


def test_folders_are_merged_file_by_file(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, text in ((here, "new"), (there, "old")):
        (folder / "both").mkdir(parents=True)
        (folder / "both" / "file").write_text(text)
    (here / "both" / "more").write_text("new")
    (here / "link").symlink_to(tmp_path)
    move_into(here, there)
    assert (there / "both" / "file").read_text() == "old" and (there / "both" / "more").read_text() == "new"
    assert (there / "link").is_symlink()
    (there / "link").unlink()
    (here / "link").symlink_to(tmp_path)
    move_into(here, there, replace=True)
    assert (there / "both" / "file").read_text() == "new" and not (there / "link").exists()


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    with pytest.raises(OSError, match="large") as caught, files_up_to(100):
        write_bytes(tmp_path / "large", bytes(101))
    assert caught.value.filename == str(tmp_path / "large") and not list(tmp_path.iterdir())
    (tmp_path / "small").mkdir()
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "small", b"")
    assert caught.value.filename == str(tmp_path / "small")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, alone):
    """Of masks and records, too: killed before the new file takes the place of the old one."""
    folder = Path(shutil.copytree(alone[SMALL][1], tmp_path / "run"))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    path = folder / "record.json"
    (mask, metadata), record = Mask.from_file(folder / MASK), Record.read(path)
    with pytest.raises(OSError, match="run"), files_up_to(100):
        write_bytes(path, bytes(101))
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"seconds": float("nan")})

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    for write in (
        lambda: write_bytes(path, b"new"),
        lambda: mask.to_file(folder / MASK, metadata),
        lambda: record.write(path),
        lambda: fake_inference(record).write(folder),
    ):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_full_disk_is_one_line_that_names_the_file_of_the_run(typed):
    with files_up_to(100_000):
        status, _, err = typed("run", *DEBUG, "output=out", "trainer.progress=none")
    *_, line = err.splitlines()
    assert status == 1 and len(err.splitlines()) == 2  # what is about to be run
    assert line.startswith("relinearize: error: out/store/teacher/") and f".work/{CHECKPOINT}: File too large" in line


def test_checkpoints_lie_beside_their_target_whatever_its_name(tmp_path, monkeypatch, run_in_pieces):
    """fsspec, below Lightning, would write to $TMPDIR first, and take `a::b` for a chain of file systems."""

    def refuse(*arguments, **settings):
        raise OSError(28, "no room")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.chdir(tmp_path)
    overrides = [f"budget.fraction={SMALL}", "trainer.checkpoint_seconds=0", "store=${output}/s3://b"]
    read = []
    monkeypatch.setattr(
        "relinearize.training.lightning.read_checkpoint", lambda path: read.append(path) or read_checkpoint(path)
    )
    record, folder = run_in_pieces(5, Path("a::b"), *overrides, method="random")
    assert read and all(path.name == CHECKPOINT for path in read)
    assert folder.parts[:2] == ("a::b", "runs") and record.accuracy.test > 0
    assert os.listdir() == ["a::b"] and sorted(os.listdir("a::b")) == ["runs", "s3:"]


def test_a_run_without_a_home_folder_has_a_cache(typed, tmp_path, monkeypatch):
    """A user who is a number without a name, as in containers."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    own = tmp_path / "temporary" / f"relinearize-{os.getuid()}"
    assert user_cache() == own
    assert typed("--version")[0] == 0 and os.environ["HOME"] == str(own)
    assert own.stat().st_mode & 0o777 == 0o700 and user_cache() == own / ".cache" / "relinearize"
    assert os.listdir(tmp_path) == ["temporary"]


def test_no_folder_for_temporary_files_is_one_line(typed, monkeypatch):
    def missing():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("relinearize.commands.status.find_sweep", lambda name: missing())
    status, _, err = typed("status")
    assert status == 1 and err.count("\n") == 1 and "['/tmp'] (output=, store=, dataset.root= and $TMPDIR say" in err


ROBUST = [
    "evaluation=robust", "evaluation.attacks=[fgsm]", "evaluation.corruptions=none", "evaluation.checks=false",
    "evaluation.n_attack=10", "evaluation.n_clean=10",
]  # fmt: skip


@pytest.mark.parametrize("words", [[], ROBUST], ids=["clean", "robust"])
def test_the_evaluation_of_a_read_only_run_is_shown_and_said_not_to_be_stored(typed, tmp_path, alone, refused, words):
    shutil.copytree(alone[SMALL][1], tmp_path / "run")
    refused(tmp_path / "run")
    status, out, err = typed("evaluate", f"run={tmp_path / 'run'}", "accelerator=cpu", *words)
    assert status == 0 and ("CA" if words else "test accuracy") in out
    file = tmp_path / "run" / (ROBUST_FILE if words else EVALUATION)
    *_, line = err.splitlines()
    assert line.startswith(f"relinearize: these results could not be stored: {file}: Read-only file system")
    assert err.count("relinearize:") == 1 and not file.exists()


def test_a_report_on_a_read_only_folder_shows_its_tables(typed, tmp_path, alone, refused, undrawn):
    shutil.copytree(alone[SMALL][1], tmp_path / "run")
    refused(tmp_path / "run")
    status, out, err = typed("report", "run")
    assert status == 1 and "622" in out
    assert (
        err == "relinearize: error: run: the report cannot be written here (Read-only file system); give out=FOLDER\n"
    )


def test_a_finished_run_is_found_in_a_read_only_store(tmp_path, alone, refused):
    folder = alone[SMALL][1]
    shutil.copytree(folder.parents[1], tmp_path / "out", ignore=shutil.ignore_patterns("asked"))
    refused(tmp_path)
    assert quick_run(tmp_path / "out", f"budget.fraction={SMALL}")[1] == tmp_path / "out" / "runs" / folder.name


BYTES = os.fsdecode(b"name\xff")  # no UTF-8


def test_a_report_walks_folders_of_any_name(typed, tmp_path, alone, undrawn):
    shutil.copytree(alone[SMALL][1], tmp_path / BYTES / "run")
    status, out, err = typed("report", ".")
    assert (status, err) == (0, "") and "622" in out
    assert (tmp_path / "report.html").is_file()


def test_a_name_that_records_cannot_hold_is_one_line(typed):
    status, _, err = typed("run", *DEBUG, f"output={BYTES}")
    assert (
        status == 1 and err.startswith("relinearize: error: output=name") and err.endswith(": must be text in UTF-8\n")
    )


def test_brackets_and_dollars_in_titles_are_shown_as_they_are(typed, tmp_path, alone):
    title = "[red]x[/foo] $x^$"
    status, out, _ = typed("count", f"dataset.title={title}")
    assert status == 0 and title in out
    shutil.copytree(alone[SMALL][1], tmp_path / "run")
    for name in ("record.json", "config.yaml"):
        file = tmp_path / "run" / name
        file.write_text(file.read_text().replace("title: Digits", f"title: '{title}'"))
        file.write_text(file.read_text().replace('"title": "Digits"', f'"title": "{title}"'))
    sealed_again(tmp_path / "run")
    status, out, err = typed("evaluate", "run=run", "accelerator=cpu")
    assert status == 0 and title in out, err
    status, out, err = typed("report", "run", "out=report")
    assert status == 0, err

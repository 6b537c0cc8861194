"""W&B offline: what a run leaves there, read back from the files that `wandb sync` would upload."""

import contextlib
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
from quick_runs import SMALL, assert_same_tensors, lasting, quick_plan, quick_run
from wandb_files import epochs_of, keep_off, local_paths, runs_below

from relinearize.errors import UserError
from relinearize.records.run import Record

wandb = pytest.importorskip("wandb")

from relinearize.runs.stages import stage_info
from relinearize.tracking import wandb_logger
from relinearize.tracking.interface import LoggerSettings
from relinearize.tracking.wandb_logger import WandbRows, lineage, site_figure


@pytest.fixture
def offline(tmp_path, monkeypatch):
    keep_off(monkeypatch, tmp_path / "wandb-own")
    yield ["logger=wandb", "logger.mode=offline", "logger.tags=[mine]", "sweep=a-sweep"]
    assert wandb.run is None, "a W&B run was left open"


def test_offline_run_holds_everything_that_a_comparison_needs(tmp_path, alone, offline):
    record, _ = quick_run(tmp_path, f"budget.fraction={SMALL}", *offline)
    ours, theirs = lasting(record), lasting(alone[SMALL][0])
    assert all(ours[key] == theirs[key] for key in ours if key != "config"), "the logger must not change the run"

    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher", "search", "finetune"}
    for stage, contents in runs.items():
        for content in contents:
            run = content["run"]
            assert run.run_group == "a-sweep" and run.project == "relinearize"
            assert {"digits", "resnet8", "mine"} <= set(run.tags)
            assert run.run_id == f"{stage}-{record.stages[stage].key[:12]}"
            assert content["config"]["method"]["search"]["lasso"] == 3e-4, "the config stays nested"
            assert content["ended"] == [0]
    assert "snl" not in runs["teacher"][0]["run"].tags
    assert "622-relus" in runs["finetune"][0]["run"].tags

    rows = [row for content in runs["search"] for row in epochs_of(content)]
    kept = [row for row in record.stages["search"].history if "seconds" in row]
    assert [(row["epoch"], row["relu/count"], row["lasso"]) for row in rows] == [
        (row["epoch"], row["relu/count"], row["lasso"]) for row in kept
    ]
    assert [row["val/accuracy"] for row in rows] == [row["val/accuracy"] for row in kept]

    summary = {key: value for content in runs["finetune"] for key, value in content["summary"].items()}
    assert summary["relu/count"] == 622 and summary["test/accuracy"] == record.accuracy.test
    assert summary["record/key"] == record.key
    selected = [row["val/accuracy"] for row in record.stages["finetune"].history]
    assert (summary["val/accuracy"], summary["val/accuracy_best"]) == (selected[-1], max(selected))
    last = runs["search"][-1]["summary"]
    assert last["relu/count"] == 622 and last["lasso"] == kept[-1]["lasso"], "the last folder's summary is whole"
    assert not [key for key in last if key.startswith("relu/kept/")]

    metrics = runs["search"][0]["metrics"]
    curves = ("train/*", "val/*", "relu/count", "relu/kept/*", "lasso", "lr", "mask/distance")
    assert all(metrics[name].step_metric == "epoch" for name in curves)
    assert "sites/kept_table.path" in runs["finetune"][-1]["history"][-1], "the bar chart's table"


@pytest.mark.slow
def test_results_go_from_stage_to_stage_and_every_file_to_sync_is_there(tmp_path, offline):
    record, _ = quick_run(tmp_path, "budget.fraction=0.5", "method.teacher.epochs=1", *offline, method="random")
    runs = runs_below(tmp_path)
    keys = {stage: record.stages[stage].key[:12] for stage in runs}
    teacher, search = "teacher-resnet8-digits-s0", "randommask-resnet8-digits-s0-1152"
    made = {
        "teacher": {f"weights-{teacher}"},
        "search": {f"mask-{search}", f"weights-{search}"},
        "finetune": {f"mask-{record.name}", f"weights-{record.name}"},
    }
    for stage, contents in runs.items():
        found = {name: each for content in contents for name, each in content["artifacts"].items()}
        assert {name for name, each in found.items() if each.type in ("mask", "weights")} == made[stage]
        for name in made[stage]:
            (entry,) = found[name].manifest.contents
            assert "/store/" in entry.local_path, "no second copy of mask and weights"
            assert (record.key[:12] if stage == "finetune" else keys[stage]) in found[name].aliases
        paths = [path for content in contents for path in local_paths(content)]
        assert paths and all(path.is_file() for path in paths)
        assert all(tmp_path in path.parents for path in paths), "nothing lies outside of the output folder"

    used = runs["finetune"][0]["config"]["lineage"]
    assert used["teacher"] == {"run": f"teacher-{keys['teacher']}", "weights": f"weights-{teacher}:{keys['teacher']}"}
    assert used["search"]["mask"] == f"mask-{search}:{keys['search']}"
    assert set(runs["search"][0]["config"]["lineage"]) == {"teacher"} and not runs["teacher"][0]["config"]["lineage"]
    captions = runs["finetune"][-1]["history"][-1]["sites/mask.captions"]
    assert [caption.split(":")[0] for caption in captions] == [site.name for site in record.sites]


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True], ids=["interrupt", "hard kill"])
def test_interrupted_stage_goes_on_in_the_same_wandb_run(tmp_path, offline, monkeypatch, hard):
    short = ["budget.fraction=0.5", "trainer.checkpoint_seconds=0", "method.finetune.epochs=0", *offline]
    send = WandbRows.rows

    def interrupt(self, history):
        send(self, history)
        if history[-1]["epoch"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(WandbRows, "rows", interrupt)
        if hard:  # W&B is not known to have what it was given
            patched.setattr(WandbRows, "ended", lambda self: None)
        quick_run(tmp_path, *short, method="random")
    record, _ = quick_run(tmp_path, *short, method="random")
    contents = runs_below(tmp_path)["teacher"]
    assert {content["run"].run_id for content in contents} == {f"teacher-{record.stages['teacher'].key[:12]}"}
    assert [content["ended"] for content in contents] == [[1], [0], [0]]
    epochs = [[row["epoch"] for row in epochs_of(content)] for content in contents]
    assert epochs == [[0, 1], [0, 1, 2] if hard else [2], []], "each once; the third folder brings the weights"
    best = max(row["val/accuracy"] for row in record.stages["teacher"].history)
    assert [content["summary"]["val/accuracy_best"] for content in contents[1:]] == [best, best]


HISTORY = [{"epoch": epoch, "seconds": 1.0, "val/accuracy": 50.0} for epoch in range(9)]


def sent_by(tmp_path, *counts, offline, ended, logged=False, stage="search"):
    """The epochs that W&B was given in a run whose history had these lengths one after the other."""
    epochs, summary = [], SimpleNamespace(update=lambda columns: None)
    run = SimpleNamespace(offline=offline, summary=summary, log=lambda row: epochs.append(row["epoch"]))
    rows = WandbRows(run, SimpleNamespace(stage=stage), tmp_path / "epoch")
    for count in counts:
        (rows.log_history if logged else rows.rows)(HISTORY[:count])
    if ended:
        rows.ended()
    return epochs


def test_rows_that_a_hard_kill_may_have_lost_are_sent_again(tmp_path):
    """Offline all since the last end, for W&B writes large blocks; another run meanwhile sends none of them."""
    assert sent_by(tmp_path, 1, 2, offline=True, ended=True) == [0, 1]
    assert sent_by(tmp_path, 3, 5, offline=True, ended=False) == [2, 3, 4]
    assert sent_by(tmp_path, 4, offline=True, ended=True, logged=True) == []
    assert sent_by(tmp_path, 6, offline=True, ended=True, logged=True) == [5]
    assert sent_by(tmp_path, 4, 7, offline=True, ended=True) == [2, 3, 4, 5, 6]
    assert sent_by(tmp_path, 7, 8, offline=True, ended=True) == [7]
    (tmp_path / "epoch").write_text("7")  # as earlier versions wrote it
    assert sent_by(tmp_path, 9, offline=True, ended=True) == [8]


def test_a_killed_upload_after_the_training_is_sent_again(tmp_path):
    assert sent_by(tmp_path, 3, offline=True, ended=False, logged=True, stage="finetune") == [0, 1, 2]
    assert sent_by(tmp_path, 3, offline=True, ended=True, logged=True, stage="finetune") == [0, 1, 2]
    assert sent_by(tmp_path, 3, offline=True, ended=True, logged=True, stage="finetune") == []


def test_online_the_rows_of_the_last_minute_are_sent_again(tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(wandb_logger, "time", SimpleNamespace(monotonic=lambda: 10.0 * next(seconds)))
    assert sent_by(tmp_path, *range(1, 7), offline=False, ended=False) == [0, 1, 2, 3, 4, 5]
    assert sent_by(tmp_path, 6, offline=False, ended=True) == [3, 4, 5]


@pytest.mark.slow
def test_a_finished_run_whose_upload_was_interrupted_is_logged_again(tmp_path, offline, monkeypatch):
    short = ["budget.fraction=0.5", "method.teacher.epochs=1", "method.finetune.epochs=0"]
    quick_run(tmp_path, *short, method="random")
    open_run = wandb_logger.wandb_run

    @contextlib.contextmanager
    def interrupted(*words, **about):
        with open_run(*words, **about) as run:
            yield run
            if about["job_type"] == "finetune":
                raise KeyboardInterrupt

    monkeypatch.setattr(wandb_logger, "wandb_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick_run(tmp_path, *short, *offline, method="random")
    monkeypatch.setattr(wandb_logger, "wandb_run", open_run)
    for _ in range(2):
        quick_run(tmp_path, *short, *offline, method="random")
    assert len(runs_below(tmp_path)["finetune"]) == 2, "again after the interrupt, and then no more"


def test_lineage_has_both_searches(tmp_path):
    words = ["allocation=shapley", "sensitivity@allocation.sensitivity=snl", "allocation.name=snl"]
    info = stage_info(quick_plan(tmp_path, "budget.fraction=0.5", *words, method="random"), "finetune")
    masks = {entry["mask"].split("-")[1] for entry in lineage(info).values() if "mask" in entry}
    assert masks == {"randommask", "snlsearch"}


def test_figure_of_a_site_is_its_mask_summed_over_channels():
    kept = np.zeros((2, 4, 3), dtype=bool)
    kept[:, 0, 0] = kept[0, 3, 2] = True
    figure = site_figure("conv1.0", kept)
    pixels = np.asarray(figure.image)
    assert pixels.shape == (96, 72) and (pixels[0, 0], pixels[95, 71], pixels[40, 40]) == (255, 128, 0)
    assert figure._caption == "conv1.0: 3 of 24"


@pytest.mark.slow
def test_stages_and_submodels_of_senetpp_are_there_too(tmp_path, offline):
    record, folder = quick_run(tmp_path, "budget.fraction=0.2", *offline, method="senetpp")
    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher", "sensitivity", "search", "finetune"}
    assert "461-relus" in runs["search"][0]["run"].tags and "senetpp" not in runs["sensitivity"][0]["run"].tags
    assert [row["mask/distance"] for row in epochs_of(runs["search"][0])] == pytest.approx(
        [row["mask/distance"] for row in record.stages["search"].history]
    )
    summary = {key: value for content in runs["finetune"] for key, value in content["summary"].items()}
    narrow = Record.read(folder / "width-0.5" / "record.json")
    artifacts = {name for content in runs["finetune"] for name in content["artifacts"]}
    assert {f"mask-{narrow.name}", f"weights-{narrow.name}"} < artifacts
    assert set(runs["search"][0]["config"]["lineage"]) == {"teacher", "sensitivity"}
    paths = [path for contents in runs.values() for content in contents for path in local_paths(content)]
    assert all(path.is_file() for path in paths)
    assert summary["relu/count"] == 461 and summary["width-0.5/relu/count"] == narrow.budget.met
    assert summary["width-0.5/test/accuracy"] == narrow.accuracy.test


class Watch(pl.Callback):
    def on_train_batch_end(self, trainer, stage, *_):
        stage.log("watched", float(trainer.global_step))


@pytest.mark.slow
def test_what_a_callback_logs_is_there_too(tmp_path, offline):
    given = [f"+callbacks.watch._target_={__name__}.Watch", "+trainer.lightning.log_every_n_steps=1"]
    record, _ = quick_run(tmp_path, "budget.fraction=0.5", "method.teacher.epochs=2", *given, *offline, method="random")
    (teacher, *_) = runs_below(tmp_path)["teacher"]
    rows = [row for row in teacher["history"] if "watched" in row]
    assert [(row["watched"], row["trainer/global_step"]) for row in rows] == [(n + 1, n) for n in range(6)]
    assert [row["val/accuracy"] for row in epochs_of(teacher)] == [
        row["val/accuracy"] for row in record.stages["teacher"].history
    ]


def test_failing_run_is_closed_as_failed(tmp_path, offline):
    with pytest.raises(UserError, match="stage teacher"):
        quick_run(tmp_path, "method.teacher.learning_rate=1e20", *offline)
    runs = runs_below(tmp_path)
    assert set(runs) == {"teacher"} and runs["teacher"][0]["ended"] == [1]


def test_a_disabled_logger_runs_and_leaves_nothing(tmp_path, alone, monkeypatch):
    keep_off(monkeypatch, tmp_path / "wandb-own")
    record, folder = quick_run(tmp_path, f"budget.fraction={SMALL}", "logger=wandb", "logger.mode=disabled")
    assert record.key == alone[SMALL][0].key and not runs_below(tmp_path)
    assert_same_tensors(folder, alone[SMALL][1])


def test_names_are_texts():
    with pytest.raises(UserError, match=r"logger\.project=2024: must be a text, or null"):
        LoggerSettings("wandb", Path(), project=2024)
    for tag in ("", "x" * 65):
        with pytest.raises(UserError, match=r"logger\.tags: '.*' must have 1 to 64 letters"):
            LoggerSettings("wandb", Path(), tags=("fine", tag))


def test_unknown_mode_and_missing_account_are_one_line(tmp_path, monkeypatch):
    keep_off(monkeypatch, tmp_path / "wandb-own")
    with pytest.raises(UserError, match=r"^logger\.mode=off is unknown; valid: online, offline, disabled$"):
        quick_run(tmp_path, "logger=wandb", "logger.mode=off", method="random")
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    with pytest.raises(UserError, match=r"^logger=wandb: .*API key.*; logger\.mode=offline needs no account"):
        quick_run(tmp_path, "logger=wandb", method="random")

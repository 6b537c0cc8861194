"""Every file that the program wrote is verified when it is read: damage ends in one line, or in the right result.

Each cell of the table is one file, damaged in one way, before one command.
"""

import contextlib
import itertools
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from privileges import as_ordinary_user
from quick_runs import LARGE, QUICK, SEARCH, assert_same_tensors, composed, quick_run

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.files import HERE, read_json
from relinearize.methods.stage.stage import Stage
from relinearize.private_inference.engine.infer import infer
from relinearize.private_inference.engine.options import InferOptions
from relinearize.records.store import PUBLISHED, Artifact
from relinearize.relu.sites import linearize
from relinearize.runs.pipeline import run
from relinearize.runs.plan import Results
from relinearize.runs.stages import load_into
from relinearize.training.checkpoint import Unfit, read_checkpoint, write_checkpoint
from relinearize.training.lightning import LightningStage


def one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zeros(path: Path) -> None:
    content = path.read_bytes()
    start = len(content) // 2
    path.write_bytes(content[:start] + bytes(min(64, len(content) - start)) + content[start + 64 :])


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "one byte changed": one_byte,
    "a block of zeros": zeros,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "unreadable": lambda path: path.chmod(0),
    "a folder in its place": folder_in_its_place,
}
FEW = {name: DAMAGES[name] for name in ("one byte changed", "unreadable")}  # where the same functions read
RUN = ["record.json", "config.yaml", "mask.safetensors", "weights.safetensors"]
BUNDLE = ["graph.json", "masks.safetensors", "weights.safetensors", "reference.safetensors"]
READ = {
    "evaluate": (["evaluate", "run={run}", "accelerator=cpu"], RUN),
    "export": (["export", "run={run}", "output={run}/new", "images=0"], RUN),
    "cost": (["cost", "run={run}"], RUN),
    "report": (["report", "{run}", "out={run}/report"], ["record.json", "mask.safetensors"]),
    "cost of a bundle": (["cost", "bundle={bundle}"], BUNDLE),
    "infer": (["infer", "{bundle}"], BUNDLE),
}


@pytest.fixture(scope="module")
def finished(alone: dict) -> Path:
    return alone[LARGE][1]


@pytest.mark.slow
@pytest.mark.parametrize("command", READ)
def test_commands_that_read_a_run_notice_all_damage(typed, finished, tmp_path, command, undrawn, capfd, caplog):
    words, files = READ[command]
    damages = DAMAGES if command.startswith("cost") else FEW
    unnoticed, cells = [], 0
    whole, bundle = tmp_path / "whole", tmp_path / "bundle"
    if files is BUNDLE:
        assert typed("export", f"run={finished}", f"output={bundle}", "images=0")[0] == 0
    for file in files:
        for damage, apply in damages.items():
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(bundle if files is BUNDLE else finished, whole)
            apply(whole / file)
            words = [word.format(run=whole, bundle=whole) for word in words]
            with as_ordinary_user():
                status, out, err = inferred(whole) if command == "infer" else typed(*words)
            line = f"{err}{caplog.text}".strip()
            caplog.clear()
            skipped = command == "report" and file == "mask.safetensors"  # the run stays in the tables
            if (status == 0) != skipped or file not in line or "\n" in line or "Traceback" in out + err:
                unnoticed.append((file, damage, status, out, err))
            cells += 1
    with capfd.disabled():
        print(f"\n{command}: {cells - len(unnoticed)} of {cells} damaged files noticed")
    assert not unnoticed, unnoticed


def inferred(bundle: Path) -> tuple[int, str, str]:
    """As the command, which would start the Python that has the engine: no party starts with a damaged bundle."""
    try:
        infer(InferOptions(bundle, engine="crypten", n_images=1))
    except UserError as error:
        return 1, "", str(error)
    return 0, "", ""


STORED = {
    "teacher/*/artifact.json": 0.5,
    "teacher/*/weights.safetensors": 0.5,
    "search/*/budget-*/artifact.json": LARGE,
    "search/*/budget-*/mask.safetensors": LARGE,
    "search/*/budget-*/weights.safetensors": LARGE,
    "finetune/*/artifact.json": LARGE,
    "finetune/*/weights.safetensors": LARGE,
}


@pytest.mark.slow
@pytest.mark.parametrize("pattern", STORED)
def test_a_run_uses_no_damaged_file_of_the_store_and_repairs_it(typed, finished, tmp_path, pattern, capfd):
    """What is not damaged stays: with `repair` the run ends with the same mask and weights."""
    words = ["run", *QUICK, *SEARCH, f"budget.fraction={LARGE}", "method.finetune.epochs=1"]
    kind = pattern.partition("/")[0]
    if kind == "finetune":  # of this very run, whose folder is gone
        words.remove("method.finetune.epochs=1")
    if kind == "teacher":
        words += ["method.search.lasso=4e-4"]
    noticed = 0
    # The same functions read all; each damage meets one file, the others have the two that differ most.
    two = {name: DAMAGES[name] for name in ("one byte changed", "missing")}
    kinds = DAMAGES if pattern == "teacher/*/weights.safetensors" else two
    for damage, apply in kinds.items():
        output = tmp_path / "again"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(finished.parents[1], output)
        shutil.rmtree(output / "runs"), shutil.rmtree(output / "store" / "asked", ignore_errors=True)
        (file,) = output.glob(f"store/{pattern}")
        apply(file)
        with as_ordinary_user():
            status, out, err = typed(*words, f"output={output}")
        line = err.strip().split("\n")[-1]
        remedy = "cannot be read (Permission denied)" if damage == "unreadable" else "repair=true"
        assert status == 1 and str(file.parent) in line and remedy in line, (damage, out, err)
        noticed += 1
    with capfd.disabled():
        print(f"\nrun: {noticed} of {len(kinds)} damaged {pattern} noticed")
    assert typed(*words, f"output={output}", "repair=true")[0] == 0
    if kind == "finetune":
        (again,) = output.glob("runs/*/record.json")
        assert_same_tensors(again.parent, finished)


@pytest.mark.parametrize("file", ["record.json", "config.yaml"])
def test_a_repaired_run_keeps_what_else_is_in_its_folder(typed, finished, tmp_path, file):
    shutil.copytree(finished.parents[1], tmp_path / "again")
    folder = tmp_path / "again" / "runs" / finished.name
    (folder / "bundle").mkdir()
    (folder / "bundle" / "graph.json").write_text("{}")
    one_byte(folder / file)
    words = ["run", *QUICK, *SEARCH, f"budget.fraction={LARGE}", f"output={tmp_path / 'again'}"]
    status, _, err = typed(*words)
    assert (status == 0) == (file == "config.yaml") and (status == 0 or "repair=true" in err)
    assert typed(*words, "repair=true")[0] == 0
    assert_same_tensors(folder, finished)
    assert (folder / "bundle" / "graph.json").read_text() == "{}" and read_json(folder / "record.json")
    assert not list(folder.parent.glob("*.damaged")) and typed("evaluate", f"run={folder}")[0] == 0


@contextlib.contextmanager
def at_step(monkeypatch, number: int, act: Callable[[], None]):
    """`act` is called at the start of the training step with this number, counted from here."""
    steps, real = itertools.count(), Stage.training_step

    def step(stage: Stage, *arguments: object) -> object:
        if next(steps) == number:
            act()
        return real(stage, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "training_step", step)
        yield


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "damage"), [("teacher", "truncated"), ("search", "one byte changed"), ("finetune", "unreadable")]
)
def test_a_damaged_checkpoint_of_any_stage_is_not_gone_on_from(tmp_path, finished, monkeypatch, stage, damage, capfd):
    config = composed(tmp_path, f"budget.fraction={LARGE}", "trainer.checkpoint_seconds=0")
    shutil.copytree(finished.parents[1] / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / stage)
    with at_step(monkeypatch, 5, interrupt), pytest.raises((KeyboardInterrupt, SystemExit)):
        run(config)
    (checkpoint,) = tmp_path.glob(f"store/{stage}/**/last.ckpt")
    DAMAGES[damage](checkpoint)
    if damage == "unreadable":
        with as_ordinary_user(), pytest.raises(PermissionError, match=r"last\.ckpt"):
            run(config)
        checkpoint.chmod(0o600)
        _, run_folder = run(config)
    else:
        _, run_folder = run(config)
        assert "is damaged (" in (err := capfd.readouterr().err) and "this training starts again" in err
    assert_same_tensors(run_folder, finished)


@pytest.mark.parametrize("damage", ["one byte changed", "a block of zeros", "truncated", "empty"])
def test_a_damaged_checkpoint_is_removed(tmp_path, damage, capfd):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"epoch": 3, "weights": torch.ones(64)}, path)
    DAMAGES[damage](path)
    assert read_checkpoint(path) is None and not path.exists()
    assert "last.ckpt is damaged (" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["teacher", "search"])
def test_a_store_that_vanishes(typed, tmp_path, monkeypatch, stage):
    """The training goes on, or ends in one line; the same command then makes everything again."""
    words = ["run", *QUICK, *SEARCH, f"budget.fraction={LARGE}", "output=out", "trainer.checkpoint_seconds=0"]
    number = 5 if stage == "teacher" else 14
    with at_step(monkeypatch, number, lambda: shutil.rmtree(tmp_path / "out" / "store")):
        status, out, err = typed(*words)
    assert status == 0 or (status == 1 and "out/store" in err.splitlines()[-1]), err
    assert "Traceback" not in out + err
    assert typed(*words)[0] == 0


def test_a_record_that_was_edited_is_named_and_others_are_reported(typed, finished, tmp_path, undrawn, caplog):
    for name in ("one", "two", "three"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    edited = tmp_path / "runs" / "one" / "record.json"
    edited.write_text(edited.read_text().replace('"test": ', '"test": 1', 1))
    (tmp_path / "runs" / "two" / "record.json").write_text("[" * 100_000)
    status, out, _ = typed("report", tmp_path / "runs")
    assert status == 0 and "one/record.json: was changed since it was written" in caplog.text
    assert "two/record.json: not valid JSON" in caplog.text and "snl" in out


def test_what_may_not_be_read_is_not_called_missing(typed, finished, tmp_path, undrawn, caplog):
    for name in ("one", "two"):
        shutil.copytree(finished, tmp_path / "runs" / name)
    network = ["export", "backbone=resnet8", "backbone.width=8", "dataset=digits", "output=new"]
    for refused, words, line in (
        ("runs/two", ["report", "runs"], "skipped: runs/two: cannot be read (Permission denied)"),
        ("runs", ["report", "runs"], "runs: cannot be read (Permission denied)"),
        ("m", [*network, f"weights={finished}/weights.safetensors", "mask=m"], "m: cannot be read (Permission denied)"),
        ("w.safetensors", [*network, "weights=w.safetensors"], "w.safetensors: cannot be read (Permission denied)"),
    ):
        path = tmp_path / refused
        if not path.exists():
            shutil.copy(finished / "mask.safetensors", path)
        path.chmod(0)
        with as_ordinary_user():
            _, _, err = typed(*words)
        path.chmod(0o700)
        assert line in err + caplog.text, (refused, err, caplog.text)


@pytest.mark.slow
def test_results_that_were_exchanged_are_noticed(typed, tmp_path):
    words = ["run", "method=random", "scale=debug", "output=out"]
    for more in (["budget.relus=300"], ["budget.relus=500"], ["budget.relus=300", "seed=1"]):
        assert typed(*words, *more)[0] == 0
    others = ["method.finetune.temperature=3", "budget.relus=300"]
    for pattern in ("store/search/randommask*s0*/budget-*", "store/teacher/*", "runs/*s0*"):
        one, other = sorted(path for path in (tmp_path / "out").glob(pattern) if path.is_dir())
        exchange(one, other)
        status, out, err = typed(*words, *(others if "store" in pattern else others[1:]))
        assert status == 1 and "which was moved there" in err and "repair=true" in err, (pattern, out, err)
        exchange(one, other)
    assert typed(*words, *others)[0] == 0


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("third"))
    other.rename(one)
    one.with_name("third").rename(other)


@pytest.mark.slow
def test_nothing_that_stands_in_the_way_is_removed_unasked(typed, tmp_path):
    words = ["run", "method=random", "scale=debug", "budget.relus=300", "output=out"]
    assert typed(*words)[0] == 0
    (teacher,) = (tmp_path / "out").glob("store/teacher/resnet*")
    (run_folder,) = (tmp_path / "out").glob("runs/random*")
    shutil.rmtree(tmp_path / "out")
    for place in (teacher, run_folder):
        place.mkdir(parents=True)
        (place / "mine.txt").write_text("precious")
        status, _, err = typed(*words)
        assert status == 1 and f"{place.name} is in the way" in err and (place / "mine.txt").exists()
        shutil.rmtree(place)
    run_folder.symlink_to(tmp_path / "nowhere")
    assert "is in the way" in typed(*words)[2]
    assert typed(*words, "repair=true")[0] == 0 and not run_folder.is_symlink()


@pytest.mark.parametrize("content", [{"state_dict": {"a": torch.ones(2)}}, torch.ones(2), [1], Path("x"), "a zip"])
def test_whole_checkpoints_of_other_programs_are_removed(tmp_path, content):
    path = tmp_path / "last.ckpt"
    if content == "a zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mine.txt", "x")
    else:
        torch.save(content, path)
    assert read_checkpoint(path) is None and not path.exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_checkpoint_that_cannot_be_read_now_stays(tmp_path, monkeypatch, error):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"epoch": 3}, path)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", fail)
        with pytest.raises(type(error)):
            read_checkpoint(path)
    assert read_checkpoint(path) == {"epoch": 3}


@pytest.mark.parametrize("lost", ["stage", "state_dict"])
def test_a_checkpoint_of_another_version_of_its_stage_is_named_and_stays(tmp_path, monkeypatch, lost):
    words = ("budget.fraction=0.6", "method.finetune.epochs=0", "trainer.checkpoint_seconds=0")
    with at_step(monkeypatch, 5, interrupt), pytest.raises((KeyboardInterrupt, SystemExit)):
        quick_run(tmp_path / "out", *words, method="random")
    (checkpoint,) = tmp_path.glob("out/store/teacher/**/last.ckpt")
    state = read_checkpoint(checkpoint)
    state[lost].pop(next(iter(state[lost])))
    write_checkpoint(state, checkpoint)
    with pytest.raises(UserError, match=rf"{re.escape(str(checkpoint))} does not fit this stage \(.*or delete it"):
        quick_run(tmp_path / "out", *words, method="random")
    checkpoint.unlink()
    _, folder = quick_run(tmp_path / "out", *words, method="random")
    _, whole = quick_run(tmp_path / "whole", *words, method="random")
    assert_same_tensors(folder, whole)


@pytest.mark.parametrize(
    ("error", "raised"), [("DefaultCPUAllocator: can't allocate memory", RuntimeError), ("size mismatch", Unfit)]
)
def test_a_checkpoint_is_none_of_an_earlier_version_where_memory_is_short(monkeypatch, error, raised):
    def fail(checkpoint: object) -> None:
        raise RuntimeError(error)

    stage = Stage(torch.nn.Linear(2, 2), epochs=1, batch_size=2, learning_rate=0.1)
    monkeypatch.setattr(stage, "on_load_checkpoint", fail)
    with pytest.raises(Exception, match=error) as caught:
        LightningStage(stage).on_load_checkpoint({})
    assert caught.type is raised


def test_results_of_earlier_versions_have_tensors_that_networks_no_longer_save():
    """Of traced networks, those that the forward pass names."""

    class WithConstant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(x)) * torch.tensor(0.5)

    network = PixelInput(linearize(WithConstant(), (4,)), (0.0,), (1.0,))
    (constant,) = (name for name, _ in network.network.named_buffers() if "constant" in name)
    weights = {**linearize(WithConstant(), (4,)).state_dict(), constant: torch.tensor(0.5)}
    loaded = load_into(network, weights).network.state_dict()
    assert constant not in loaded and torch.equal(loaded["layer.weight"], weights["layer.weight"])
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_into(network, {**weights, "another": torch.ones(1)})


def test_a_file_that_another_node_is_writing_is_no_part_of_a_result(tmp_path):
    """Where nodes do not share locks."""
    artifact = Artifact(tmp_path / "teacher", "key")
    artifact.work.mkdir()
    (artifact.work / "weights").write_text("whole")
    young, old, own = (artifact.work / f".last.ckpt.{name}.tmp" for name in ("another.1", "another.2", f"{HERE}.3"))
    for path in (young, old, own):
        path.touch()
    os.utime(old, (0, 0))
    with artifact.lock():
        assert [path.exists() for path in (young, old, own)] == [True, False, False]
        artifact.publish(artifact.work, {})
    assert list(artifact.describe()["files"]) == ["weights"]
    (artifact.path / young.name).unlink()
    artifact.check()


def test_a_run_without_its_record_is_damaged(tmp_path):
    artifact = Artifact(tmp_path / "run", "key")
    artifact.work.mkdir()
    artifact.publish(artifact.work, {"record": "record.json"})
    with pytest.raises(UserError, match=r"record\.json is missing; delete .* or give repair=true"):
        artifact.check()


def test_a_result_that_another_process_publishes_meanwhile_is_not_in_the_way(tmp_path, monkeypatch):
    artifact = Artifact(tmp_path / "teacher", "key")
    artifact.work.mkdir()
    exists = Path.exists

    def publish_first(path: Path) -> bool:
        found = exists(path)
        if path == artifact.path and not found:
            artifact.publish(artifact.work, {})
        return found

    monkeypatch.setattr(Path, "exists", publish_first)
    artifact.check_place()
    assert artifact.complete


def test_a_result_that_a_node_without_shared_locks_made_meanwhile_is_taken(tmp_path):
    """Both trained it: the second finds the place taken when it publishes."""
    artifact = Artifact(tmp_path / "teacher", "key")
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights").write_text(name)
        artifact.publish(folder, {})
    assert artifact.complete and artifact.file("weights").read_text() == "first" and not (tmp_path / "second").exists()
    PUBLISHED.discard(artifact.path)  # the first was the other node's
    results = Results()
    results.keep(artifact, {"weights": "second"})
    assert results._read(artifact, "weights", Path.read_text) == "first"


@pytest.mark.slow
def test_a_checkpoint_of_another_program_is_not_gone_on_from(typed, tmp_path):
    words = ["run", "method=random", "scale=debug", "budget.relus=300", "output=out"]
    assert typed(*words)[0] == 0
    (teacher,) = (tmp_path / "out").glob("store/teacher/resnet*")
    shutil.rmtree(tmp_path / "out")
    work = teacher.with_name(teacher.name + ".work")
    work.mkdir(parents=True)
    torch.save({"state_dict": {"a": torch.ones(2)}}, work / "last.ckpt")
    status, _, err = typed(*words)
    assert status == 0 and "last.ckpt is damaged" in err and "starts again" in err


def test_a_pipe_in_place_of_a_record_does_not_hold_up_a_report(typed, finished, tmp_path, undrawn, caplog):
    shutil.copytree(finished, tmp_path / "runs" / "good")
    (tmp_path / "runs" / "bad").mkdir()
    os.mkfifo(tmp_path / "runs" / "bad" / "record.json")
    assert typed("report", tmp_path / "runs")[0] == 0 and "bad/record.json: is no file" in caplog.text


def test_an_edited_config_is_taken_only_with_trust(typed, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "edited"))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("holdout: 0.1", "holdout: 0.2"))
    assert "config.yaml is damaged or was changed" in typed("cost", f"run={folder}")[2]
    assert typed("cost", f"run={folder}", "trust=true")[0] == 0


def test_files_of_earlier_versions_have_no_digests_and_are_read(finished, tmp_path, typed):
    import json

    folder = Path(shutil.copytree(finished, tmp_path / "earlier"))
    record = json.loads((folder / "record.json").read_text())
    del record["sha256"], record["files"]
    (folder / "record.json").write_text(json.dumps(record))
    assert typed("cost", f"run={folder}")[0] == 0


def test_quick_run_is_found_again_after_a_repair(tmp_path):
    _, folder = quick_run(tmp_path, "budget.fraction=0.6", method="random")
    (folder / "weights.safetensors").write_bytes(b"")
    _, again = quick_run(tmp_path, "budget.fraction=0.6", "repair=true", method="random")
    assert again == folder and (folder / "weights.safetensors").stat().st_size > 0


def test_a_store_can_be_shared_by_a_group(tmp_path):
    """Files have the mode that the umask gives, and whoever may write in the folder may take its locks."""
    before = os.umask(0o002)
    try:
        quick_run(tmp_path / "shared", "budget.fraction=0.6", method="random")
    finally:
        os.umask(before)
    paths = list((tmp_path / "shared").rglob("*"))
    modes = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in paths}
    locks = {path: mode for path, mode in modes.items() if path.suffix == ".lock"}
    assert locks and set(locks.values()) == {0o666}
    files = {mode for path, mode in modes.items() if (tmp_path / path).is_file() and path not in locks}
    assert files == {0o664} and {modes[path] for path in modes if (tmp_path / path).is_dir()} == {0o775}

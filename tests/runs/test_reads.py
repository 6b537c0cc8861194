"""A run reads no file that it wrote, and every other one once; a stage that is finished is not built again."""

import functools
from pathlib import Path

import pytest
from quick_runs import SMALL, quick_run

from relinearize.backbones import weights
from relinearize.methods.stage.stage import Stage
from relinearize.relu import mask


@pytest.fixture
def read(monkeypatch):
    """The files of weights and masks that were read, whoever read them, as often as each was read."""
    found = []

    def counted(reader):
        def reading(path, **settings):
            found.append(Path(path))
            return reader(path, **settings)

        return reading

    monkeypatch.setattr(weights, "load_file", counted(weights.load_file))
    monkeypatch.setattr(mask, "safe_open", counted(mask.safe_open))
    return found


def files(paths, store):
    """KIND/FILE of each, where KIND is a folder of the store."""
    return sorted(f"{path.relative_to(store).parts[0]}/{path.name}" for path in paths)


@pytest.fixture
def built(monkeypatch):
    """The names of the stages that were built."""
    names, set_up = set(), Stage.__init__

    @functools.wraps(set_up)  # keys leave out the defaults that its signature says
    def building(stage, *arguments, **settings):
        names.add(stage.name)
        set_up(stage, *arguments, **settings)

    monkeypatch.setattr(Stage, "__init__", building)
    return names


def test_new_run_reads_nothing_that_it_made(tmp_path, read, fits):
    quick_run(tmp_path, f"budget.fraction={SMALL}")
    assert not read and fits == ["teacher", "search", "finetune"]


def test_run_on_finished_stages_reads_each_file_once(tmp_path, alone, read, built, fits):
    store = alone[SMALL][1].parents[1] / "store"
    quick_run(tmp_path, f"budget.fraction={SMALL}", f"store={store}", "method.finetune.epochs=1")
    once = ["search/mask.safetensors", "search/weights.safetensors", "teacher/weights.safetensors"]
    assert files(read, store) == once
    assert fits == ["finetune"] and built == {"finetune"}


def test_other_label_reads_the_mask_alone_and_builds_nothing(tmp_path, alone, read, built):
    record, folder = alone[SMALL]
    store = folder.parents[1] / "store"
    words = [f"budget.fraction={SMALL}", f"store={store}", "dataset.title=Renamed", "logger=none"]
    other, _ = quick_run(tmp_path, *words)
    assert files(read, store) == ["search/mask.safetensors"] and not built
    assert all(stage.reused for stage in other.stages.values())
    assert not any(stage.reused for stage in record.stages.values())
    assert other.accuracy == record.accuracy and other.dataset.title == "Renamed"

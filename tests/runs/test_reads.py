"""A run reads no file that it wrote, and every other one once; a stage that is finished is not built again."""

import functools
from collections import Counter

import pytest
from quick_runs import SMALL, quick_run

from relinearize.methods.stage.stage import Stage
from relinearize.relu.mask import Mask
from relinearize.runs import plan as plans


@pytest.fixture
def counted(monkeypatch):
    """Counts of "KIND/FILE" read and of stages built, by their names."""
    found = Counter()
    read_weights, from_file, set_up = plans.read_weights, Mask.from_file, Stage.__init__

    def reading(path):
        found[f"{path.parents[1].name}/{path.name}"] += 1
        return read_weights(path)

    def reading_mask(path):
        found["mask"] += 1
        return from_file(path)

    @functools.wraps(set_up)  # keys leave out the defaults that its signature says
    def building(stage, *arguments, **settings):
        found[stage.name] += 1
        set_up(stage, *arguments, **settings)

    monkeypatch.setattr(plans, "read_weights", reading)
    monkeypatch.setattr(Mask, "from_file", reading_mask)
    monkeypatch.setattr(Stage, "__init__", building)
    return found


def test_new_run_reads_nothing_that_it_made(tmp_path, counted):
    quick_run(tmp_path, f"budget.fraction={SMALL}")
    # Searches and fine-tunings are checked before the teacher trains, and built from its weights afterwards.
    assert counted == {"teacher": 1, "search": 2, "finetune": 2}


def test_run_on_finished_stages_reads_each_file_once(tmp_path, alone, counted):
    store = f"store={alone[SMALL][1].parents[1] / 'store'}"
    counted.clear()  # of the runs that made the store
    quick_run(tmp_path, f"budget.fraction={SMALL}", store, "method.finetune.epochs=1")
    search = next(name for name in counted if name.startswith("snlsearch"))
    assert counted == {"finetune": 2, "mask": 1, "teacher/weights.safetensors": 1, search: 1}


def test_other_label_reads_the_mask_alone_and_builds_nothing(tmp_path, alone, counted):
    store = f"store={alone[SMALL][1].parents[1] / 'store'}"
    counted.clear()  # of the runs that made the store
    quick_run(tmp_path, f"budget.fraction={SMALL}", store, "dataset.title=Renamed", "logger=none")
    assert counted == {"mask": 1}

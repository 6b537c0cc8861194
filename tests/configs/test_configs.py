"""Every config file composes; every experiment really starts (slow)."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1] / "experiment"))

from relinearize.cli import conf_folder

CONF = conf_folder()


def files_of(group):
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*overrides])


@pytest.mark.parametrize("group", ["method", "dataset", "backbone", "budget", "trainer", "logger", "debug"])
def test_every_file_of_a_group_composes_and_resolves(group):
    choices = [name for name in files_of(group) if "/" not in name]  # method/teacher/... are groups of their own
    for choice in choices:
        given = ["dataset.image_size=8"] if choice == "image_folder" else []
        config = composed(f"{group}={choice}", "dataset.root=/data", *given)
        OmegaConf.resolve(config)
        assert group == "debug" or config[group] is not None


@pytest.mark.parametrize("stage", ["teacher", "search", "finetune"])
def test_every_stage_file_can_be_exchanged_on_its_own(stage):
    for choice in files_of(f"method/{stage}"):
        config = composed(f"method/{stage}={choice}")
        assert config.method[stage]._target_.startswith("relinearize.")


def test_defaults_are_the_papers_recipe():
    """papers.md 3.2: SNL's pre-training, search and fine-tuning."""
    method = composed("method=snl").method
    teacher, search, tune = method.teacher, method.search, method.finetune
    assert (teacher.epochs, teacher.batch_size, teacher.learning_rate) == (160, 256, 0.1)
    assert (teacher.schedule, list(teacher.milestones), teacher.gamma) == ("milestones", [0.5, 0.75], 0.1)
    assert (search.epochs, search.batch_size, search.learning_rate, search.alpha_learning_rate) == (
        2000,
        128,
        1e-3,
        None,
    )
    assert (search.lasso, search.lasso_growth, search.threshold, search.temperature) == (1e-5, 1.1, 1e-2, 4.0)
    assert (search.patience_epochs, search.paper_parity) == (5, False)
    assert (tune.epochs, tune.batch_size, tune.learning_rate, tune.schedule) == (100, 128, 1e-3, "cosine")
    for stage in (teacher, tune):
        assert (stage.momentum, stage.weight_decay, stage.selection) == (0.9, 5e-4, "best")


def test_named_budgets_are_what_their_names_say():
    from relinearize.relu.budget import parse_count

    shares = {"half": 0.5, "quarter": 0.25, "tenth": 0.1, "twentieth": 0.05}
    for choice in files_of("budget"):
        budget = composed(f"budget={choice}").budget
        if choice in shares:
            assert budget.fraction == shares[choice] and budget.relus is None
        elif choice != "default":
            assert parse_count(budget.relus) == parse_count(choice) and budget.fraction is None


@pytest.mark.parametrize("experiment", files_of("experiment"))
def test_every_experiment_composes(experiment):
    config = composed(f"experiment={experiment}")
    assert config.method.name and config.dataset.name


# As small as it gets; overrides of keys that a method lacks are left out.
TINY = {
    "method.teacher.epochs": 1, "method.search.epochs": 1, "method.finetune.epochs": 1,
    "method.teacher.batch_size": 20, "method.search.batch_size": 20, "method.finetune.batch_size": 20,
    "dataset.subset": 40, "dataset.holdout": 0.5, "trainer.accelerator": "cpu", "trainer.precision": 32,
    "trainer.progress": "none", "budget.relus": None, "budget.fraction": 0.5, "budget.grid": [], "backbone.width": 8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("experiment", files_of("experiment"))
def test_every_experiment_trains_on_tiny_images(experiment, tmp_path):
    """One step a stage or two, on the digits in place of its images."""
    from relinearize.experiment.pipeline import run

    config = composed(f"experiment={experiment}", f"output={tmp_path}", "dataset=digits", "logger=none")
    for key, value in TINY.items():
        if OmegaConf.select(config, key, default="absent") != "absent":
            OmegaConf.update(config, key, value)
    record, _ = run(config)
    assert record.budget.met == record.budget.asked


@pytest.mark.slow
def test_bf16_option_trains_on_a_cpu(tmp_path):
    """Emulated and very slow on processors without bf16 instructions: a handful of images."""
    from quick_runs import quick_run

    record, _ = quick_run(
        tmp_path, "trainer=bf16", "trainer.progress=none", "trainer.accelerator=cpu", "method.search.epochs=1",
        "dataset.subset=40", "method.teacher.epochs=1", "method.finetune.epochs=1",
    )  # fmt: skip
    assert record.hardware.precision == "bf16"
    assert record.budget.met == record.budget.asked == 1152

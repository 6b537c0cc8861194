"""Values of a wrong kind in a run's config: one line that names the key, before anything is built."""

from dataclasses import fields
from typing import get_args, get_origin

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel
from quick_runs import composed

from relinearize.commands.words import TEXTS
from relinearize.errors import UserError
from relinearize.runs.pipeline import check_stages
from relinearize.runs.plan import Plan
from relinearize.runs.recall import recall
from relinearize.runs.schema import RunConfig, Trainer
from relinearize.training.settings import TrainerSettings

WRONG = [
    ("output", None, "output=null: must be a text"),
    ("store", 5, "store=5: must be a text"),
    ("teacher", None, "teacher=null: must hold keys of its own"),
    ("teacher.weights", -1, "teacher.weights=-1: must be a text"),
    ("budget.grid", None, "budget.grid=null: must be a list"),
    ("method", "snl", "method=snl: must hold keys of its own"),
    ("method.name", None, "method.name=null: must be a text"),
    ("method.search", {}, "method.search._target_ must be given"),
    ("method.teacher.milestones", "0.5", "method.teacher.milestones=0.5: must be a list of fractions"),
    ("method.teacher.milestones", ["half"], "method.teacher.milestones=half: must be a number >= 0"),
    ("method.teacher.learning_rate", float("nan"), "method.teacher.learning_rate=nan: must be a finite number"),
    ("method.search.checks_per_epoch", 0, "method.search.checks_per_epoch=0: must be an integer >= 1"),
    ("method.search.alpha_learning_rate", "x", "method.search.alpha_learning_rate=x: must be a number > 0"),
    ("method.search.paper_parity", "x", "method.search.paper_parity=x is unknown; valid: True, False"),
    ("method.search.first", "snl", "method.search.first=snl: must hold keys of its own"),
    ("sensitivity._target_", None, "sensitivity._target_=null: must be MODULE.NAME of a class or a function"),
    ("sensitivity._target_", "x", "sensitivity._target_=x is no class and no function"),
    ("replacement", "affine", "replacement=affine: must hold keys of its own"),
    ("output", "~/runs", "output=~/runs: a ~ is for the command line only"),
    ("teacher.weights", "~me/w.pt", "teacher.weights=~me/w.pt: a ~ is for the command line only"),
    ("allocation.sensitivity.file", "~/s.yaml", "allocation.sensitivity.file=~/s.yaml: a ~ is for the command line"),
    ("dataset.title", "CIFAR\x07", "dataset.title=CIFAR"),
    ("dataset.title", 5, "dataset.title=5: must be a text"),
    ("dataset.mean", 0.5, "dataset.mean=0.5: must be a list"),
    ("dataset.mean", [], "dataset.mean=[]: needs one number for each of 1 channel(s)"),
    ("dataset.std", [0.0], "dataset.std=[0.0]: standard deviations must be above 0"),
    ("dataset.augment", True, "dataset.augment=True: must hold keys of its own"),
    ("dataset.workers", -1, "dataset.workers=-1: must be greater than or equal to 0"),
    ("trainer.checkpoint_seconds", "soon", "trainer.checkpoint_seconds=soon: must be a number"),
    ("trainer.threads", "x", "trainer.threads=x: must be an integer"),
    ("backbone._target_", "my.net", "backbone._target_=my.net is no class and no function"),
    ("dataset.source._target_", "os.path", "dataset.source._target_=os.path is no class and no function"),
    ("allocation.name", "x", "allocation.name=x names no file; give allocation=sites, cost or shapley"),
]


WRONG_RLNET = [
    ("method.teacher.attack", "pgd", "method.teacher.attack=pgd: must hold keys of its own"),
    ("method.search.attack.random_start", "x", "method.search.attack.random_start=x is unknown; valid: True, False"),
    ("method.finetune.robust_validation", 5, "method.finetune.robust_validation=5: must hold keys of its own"),
    ("method.finetune.pram_weight", "x", "method.finetune.pram_weight=x: must be a number >= 0"),
    ("sensitivity._target_", [], "sensitivity._target_=[]: must be MODULE.NAME of a class or a function"),
]


def test_every_text_of_a_name_or_a_folder_may_be_typed_as_a_number():
    """Those of groups are names of files."""
    groups = {"allocation", "replacement", "logger", "budget"}

    def texts(model, prefix=""):
        for name, field in model.model_fields.items():
            kinds = (
                field.annotation,
                *(get_args(field.annotation) if get_origin(field.annotation) is not dict else ()),
            )
            if str in kinds and name != "target" and prefix.rstrip(".") not in groups:
                yield prefix + name
            for node in kinds:
                if isinstance(node, type) and issubclass(node, BaseModel):
                    yield from texts(node, f"{prefix}{name}.")

    assert set(texts(RunConfig)) <= TEXTS


@pytest.mark.parametrize(
    ("method", "key", "value", "message"),
    [*(("snl", *wrong) for wrong in WRONG), *(("rlnet", *wrong) for wrong in WRONG_RLNET)],
)
def test_a_value_of_a_wrong_kind_is_named(tmp_path, method, key, value, message):
    config = composed(tmp_path, method=method)
    OmegaConf.update(config, key, value, merge=False, force_add=True)
    with pytest.raises(UserError) as refused:
        recall(config)
        check_stages(Plan.of(config))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_the_keys_of_the_trainer_are_those_that_its_class_takes():
    """Callbacks have a key of their own in the config."""
    assert set(Trainer.model_fields) == {field.name for field in fields(TrainerSettings)} - {"callbacks"}

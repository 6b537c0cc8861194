"""Several attacks of torchattacks in one evaluation, each named torchattacks-CLASS."""

import shutil

import pytest
import torch
from quick_runs import SMALL
from rich.console import Console
from torch import nn

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.commands.evaluate import read_evaluation
from relinearize.errors import UserError
from relinearize.robustness.third_party import COLOURED, TORCHATTACKS, Torchattacks

SETTINGS = ["evaluation=robust", "evaluation.corruptions=none", "evaluation.checks=false", "accelerator=cpu"]


def options_of(*arguments):
    return read_evaluation(["run=x", *SETTINGS, *arguments])


def test_each_name_is_the_file_with_that_class():
    attacks = options_of(
        "evaluation.attacks=[torchattacks-CW,torchattacks-MIFGSM,torchattacks]", "evaluation.epsilon=4",
        "attack.torchattacks-MIFGSM.arguments.steps=3", "attack.torchattacks.attack=PGD",
    ).attacks  # fmt: skip
    assert [(name, one["name"], one["attack"]) for name, one in attacks.items()] == [
        ("torchattacks-CW", "torchattacks-CW", "CW"),
        ("torchattacks-MIFGSM", "torchattacks-MIFGSM", "MIFGSM"),
        ("torchattacks", "torchattacks", "PGD"),
    ]
    assert {one["epsilon"] for one in attacks.values()} == {4}
    assert [one["arguments"] for one in attacks.values()] == [{}, {"steps": 3}, {}]
    assert len({one["_target_"] for one in attacks.values()}) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluation.attacks=[pgd-CW]"], "evaluation.attacks=pgd-CW is unknown; valid: apgd"),
        (["evaluation.attacks=[torchattacks-]"], "evaluation.attacks=torchattacks- is unknown"),
        (["evaluation.attacks=[torchattacks-CW,torchattacks-CW]"], "names an attack twice"),
        (["evaluation.attacks=[torchattacks-CW]", "attack.torchattacks.epsilon=1"], "no such attack"),
    ],
)
def test_wrong_names_are_one_line(arguments, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[")):
        options_of(*arguments)


@pytest.mark.slow
def test_attacks_for_colours_are_left_out_on_grey_images(alone, tmp_path, capsys):
    folder = shutil.copytree(alone[SMALL][1], tmp_path / "run")
    attacks = [*(f"torchattacks-{name}" for name in COLOURED), "fgsm"]
    words = [f"run={folder}", *SETTINGS, "evaluation.n_attack=4"]
    (record,) = evaluate_run([*words, f"evaluation.attacks=[{','.join(attacks)}]"], Console(quiet=True))
    assert [one.name for one in record.attacks] == ["fgsm"]
    said = capsys.readouterr().err
    for name in attacks[:-1]:
        assert f"{name} is left out: it takes images of three channels, Digits has one" in said
    (same,) = evaluate_run([*words, "evaluation.attacks=[fgsm]"], Console(quiet=True))
    assert same == record  # what was asked without them


def test_which_attacks_take_three_channels():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    images, labels, refused = torch.rand(1, 1, 8, 8), torch.tensor([1]), set()
    for name in TORCHATTACKS:
        few = {"steps": 2, "n_queries": 2, "popsize": 2, "max_iterations": 10, "max_iter": 2}
        taken = Torchattacks(name)._defaults
        attack = Torchattacks(name, arguments={key: value for key, value in few.items() if key in taken})
        try:
            attack(network.eval(), images, labels, 0)
        except RuntimeError as error:
            assert "channels" in str(error)
            refused.add(name)
    assert refused == set(COLOURED)


@pytest.mark.slow
def test_they_share_one_evaluation(random_masks, tmp_path):
    folder = shutil.copytree(random_masks[1], tmp_path / "run")
    attacks = "evaluation.attacks=[torchattacks-FGSM,torchattacks-MIFGSM]"
    settings = [attacks, "attack.torchattacks-MIFGSM.arguments.steps=2", "evaluation.n_attack=4"]
    (record,) = evaluate_run([f"run={folder}", *SETTINGS, *settings], Console(quiet=True))
    assert [(one.name, one.label, one.epsilon, one.steps) for one in record.attacks] == [
        ("torchattacks-FGSM", "torchattacks FGSM", 8.0, None),
        ("torchattacks-MIFGSM", "torchattacks MIFGSM", 8.0, 2),
    ]

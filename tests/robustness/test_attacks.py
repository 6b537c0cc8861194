"""The attacks that conf/attack names, and robust accuracy in batches."""

from pathlib import Path

import pytest
import torch
from attack_toys import batch, everything_about, mixed_modes, own_labels, right, toy_network
from hydra.utils import instantiate
from omegaconf import OmegaConf

from relinearize.errors import UserError
from relinearize.robustness.attack import fgsm, pgd
from relinearize.robustness.attacks import FGSM, PGD, attacked_batch, logits_of
from relinearize.robustness.third_party import APGD, AutoAttack, Square, Torchattacks

CONF = Path(__file__).parents[2] / "conf" / "attack"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
LABELS = {
    "apgd": "APGD-100 (CE and DLR)",
    "autoattack": "AutoAttack",
    "fgsm": "FGSM",
    "pgd": "PGD-10 (CE)",
    "pgd20": "PGD-20 (CE)",
    "pgd100x5": "PGD-100 x 5 (CE and margin)",
    "square": "Square (5,000)",
    "torchattacks": "torchattacks MIFGSM",
}
SHORT = {  # overrides that make each short
    "apgd": {"steps": 2},
    "pgd20": {"steps": 2},
    "pgd100x5": {"steps": 2, "restarts": 2},
    "pgd": {"steps": 2, "losses": ["kl", "margin"], "restarts": 2},
    "square": {"queries": 5},
    "torchattacks": {"arguments": {"steps": 2}, "step_size": 3},
}


def made(name: str, **overrides):
    """As the program makes it: the file, overridden, through Hydra."""
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), overrides))


@pytest.mark.parametrize("name", NAMES)
def test_every_config(name: str) -> None:
    attack = made(name)
    assert (attack.name, attack.label) == (name, LABELS[name])
    description = attack.describe()
    assert list(description) == ["epsilon", "step", "steps", "restarts", "losses", "version"]
    assert description["epsilon"] == 8.0
    assert made(name, epsilon=4).describe()["epsilon"] == 4.0
    assert (description["version"] is None) == (name in ("fgsm", "pgd", "pgd20", "pgd100x5"))
    assert type(description["losses"]) is list


@pytest.mark.parametrize("name", [name for name in NAMES if name != "autoattack"])
def test_every_config_attacks(name: str) -> None:
    """Alike twice, inside its ball, without a trace, in inference mode and under autocast."""
    network, (images, labels) = toy_network(), batch()
    attack = made(name, **SHORT.get(name, {}))
    mixed_modes(network)
    before = everything_about(network)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        one = attack(network, images, labels, 4)
    assert everything_about(network) == before
    assert not one.requires_grad
    assert one.dtype == torch.float32
    assert (one - images).abs().max() <= 8 / 255 + 1e-6
    assert torch.equal(one, attack(network, images, labels, 4))


def test_descriptions_say_what_is_done() -> None:
    assert PGD(steps=100, restarts=5, losses=["ce", "margin"]).describe() == {
        "epsilon": 8.0,
        "step": 2.0,
        "steps": 100,
        "restarts": 5,
        "losses": ["ce", "margin"],
        "version": None,
    }
    assert FGSM(4).describe()["step"] == 4.0
    assert [PGD(epsilon, None).describe()["step"] for epsilon in (8, 1, 0.2)] == [2.0, 0.25, 0.1]
    assert AutoAttack().describe()["version"] == "pyautoattack 0.2.0, standard"
    assert Square(queries=1000).describe()["steps"] == 1000
    tried = Torchattacks("PGD", epsilon=4, arguments={"steps": 3}).describe()
    assert (tried["epsilon"], tried["step"], tried["steps"]) == (4.0, 2.0, 3)
    assert tried["version"].endswith(", PGD")
    for away in (Torchattacks("CW"), Torchattacks("PGDL2"), Torchattacks("FAB", arguments={"norm": "L2"})):
        assert away.describe()["epsilon"] is None
        assert away.describe()["version"].endswith(", L2")
    assert Torchattacks("AutoAttack").label == "TA-AA-10"


def test_torchattacks_epsilon_is_in_pixels_times_255() -> None:
    network, (images, labels) = toy_network(), batch()
    attack = Torchattacks("PGD", epsilon=4, step_size=1, arguments={"steps": 5, "random_start": False})
    expected = pgd(network, images, labels, epsilon=4 / 255, step_size=1 / 255, steps=5, random_start=False)
    assert (attack(network, images, labels, 0) - expected).abs().max() <= 1e-6
    pifgsm = Torchattacks("PIFGSM", epsilon=4, arguments={"num_iter_set": 2})
    assert (pifgsm(network, images, labels, 0) - images).abs().max() <= 4 / 255 + 1e-6


def test_fgsm_and_pgd_are_the_plain_functions() -> None:
    network, (images, labels) = toy_network(), batch()
    assert torch.equal(FGSM(8)(network, images, labels, 0), fgsm(network, images, labels, epsilon=8 / 255))
    assert torch.equal(FGSM(0)(network, images, labels, 0), images)
    settings = {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 3, "generator": torch.Generator().manual_seed(6)}
    attack = PGD(steps=3, early_stop=False)
    assert torch.equal(attack(network, images, labels, 6), pgd(network, images, labels, **settings))
    assert not torch.equal(attack(network, images, labels, 6), attack(network, images, labels, 7))


def test_several_losses_are_the_worst_case() -> None:
    """Each loss attacks those that the ones before left right, with draws that go on; the second finds some more."""
    network, (images, _) = toy_network(), batch(48)
    labels = own_labels(network, images)
    settings = {"epsilon": 16 / 255, "step_size": 4 / 255, "steps": 4, "active_only": True}
    generator, left, survivors = torch.Generator().manual_seed(0), torch.arange(48), []
    for loss in ("ce", "margin"):
        single = pgd(network, images[left], labels[left], loss=loss, generator=generator, **settings)
        left = left[right(network, single, labels[left])]
        survivors.append(set(left.tolist()))
    assert 0 < len(survivors[1]) < len(survivors[0]) < 48, "the case shows nothing"
    for number in (1, 2):
        attack = PGD(epsilon=16, step_size=4, steps=4, losses=["ce", "margin"][:number])
        found = right(network, attack(network, images, labels, 0), labels)
        assert set(found.nonzero().flatten().tolist()) == survivors[number - 1]


def test_restarts_of_kl_are_the_worst_case_too() -> None:
    """An image is right only if it is so after each single attack; the one of largest KL does not decide that."""
    network, (images, _) = toy_network(), batch(48)
    labels = own_labels(network, images)
    settings = {"epsilon": 24 / 255, "step_size": 6 / 255, "steps": 2, "loss": "kl"}
    wanted, generator = logits_of(network, images), torch.Generator().manual_seed(3)
    left = torch.arange(48)
    survivors = []
    for _ in range(6):
        single = pgd(network, images[left], wanted[left], generator=generator, **settings)
        left = left[right(network, single, labels[left])]
        survivors.append(set(left.tolist()))
    assert 0 < len(survivors[-1]) < len(survivors[0]) < 48, "the case shows nothing"
    for restarts in (1, 3, 6):
        attack = PGD(epsilon=24, step_size=6, steps=2, restarts=restarts, losses=["kl"])
        found = right(network, attack(network, images, labels, 3), labels)
        assert set(found.nonzero().flatten().tolist()) == survivors[restarts - 1]
    largest = pgd(network, images, wanted, generator=torch.Generator().manual_seed(3), restarts=6, **settings)
    assert right(network, largest, labels).sum() > len(survivors[-1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PGD(epsilon=0.031), "attack.pgd.epsilon=0.031: this is 0.031/255"),
        (lambda: FGSM(epsilon=300), "attack.fgsm.epsilon=300: give pixels times 255"),
        (lambda: Square(epsilon="8/255"), "attack.square.epsilon=8/255: give pixels times 255"),
        (lambda: PGD(step_size=-1), "attack.pgd.step_size=-1"),
        (lambda: PGD(step_size=0), "attack.pgd.step_size=0 makes no attack; give pixels times 255"),
        (lambda: PGD(steps=0), "attack.pgd.steps=0: must be an integer"),
        (lambda: PGD(steps=0, name="pgd20"), "attack.pgd20.steps=0: must be an integer"),
        (lambda: PGD(restarts=1.5), "attack.pgd.restarts=1.5"),
        (lambda: PGD(early_stop="no"), "attack.pgd.early_stop=no is unknown; valid: True, False"),
        (lambda: PGD(losses=["cw"]), r"attack.pgd.losses=\[cw\]: give some of ce, margin, kl"),
        (lambda: PGD(losses=[]), r"attack.pgd.losses=\[\]"),
        (lambda: APGD(losses=["ce", "ce"]), "give some of ce, dlr, t, each once"),
        (lambda: Square(queries=0), "attack.square.queries=0"),
        (lambda: Torchattacks("Nothing"), "no 'Nothing'; valid are APGD"),
        (lambda: Torchattacks("PGD", arguments={"step": 1}), "PGD does not take step; it takes eps, alpha"),
        (lambda: Torchattacks("PGD", arguments={"eps": 8}), "eps=8: PGD takes pixels of .0, 1., so eps 1 at most"),
        (lambda: Torchattacks("PGD", arguments={"eps": "8/255"}), "arguments.eps=8/255: PGD takes pixels of"),
        (
            lambda: Torchattacks("PGD", arguments={"alpha": 2}),
            "attack.torchattacks.arguments.alpha=2: PGD takes pixels of",
        ),
        (
            lambda: Torchattacks("PIFGSM", arguments={"max_epsilon": 16}),
            "attack.torchattacks.arguments.max_epsilon=16: PIFGSM",
        ),
        (lambda: Torchattacks("FAB", arguments={"eps": 3, "norm": "Linf"}), "attack.torchattacks.arguments.eps=3: FAB"),
    ],
)
def test_wrong_settings(build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_radii_of_other_distances_may_be_above_1() -> None:
    for attack, arguments in (("PGDL2", {"eps": 3.0, "alpha": 1.5}), ("FAB", {"eps": 3, "norm": "L2"})):
        assert Torchattacks(attack, arguments=arguments).settings.items() >= arguments.items()
    assert Torchattacks("FAB", arguments={"eps": None, "norm": "Linf"}).settings["eps"] is None
    assert Torchattacks("PGD", arguments={"eps": 1}).describe()["epsilon"] == 255


# ---- robust accuracy -------------------------------------------------------------------------------------------------


def test_robust_accuracy_counts() -> None:
    network, (x, y) = toy_network(), batch(21)
    y = torch.where(torch.arange(len(y)) % 4 == 0, y, own_labels(network, x))
    attack = PGD(epsilon=16, step_size=4, steps=3)
    found = attacked_batch(network, x, y, attack, 5, 16 / 255)
    clean = right(network, x, y)
    robust = clean.clone()
    robust[clean] = right(network, attack(network, x[clean], y[clean], 5), y[clean])
    assert torch.equal(found, robust)
    assert 0 < robust.sum() < clean.sum() < 21


def test_robust_accuracy_leaves_no_trace_and_is_float32() -> None:
    network, (images, labels) = toy_network(), batch(21)
    mixed_modes(network)
    before = everything_about(network)
    expected = attacked_batch(network, images, labels, PGD(steps=2), 0, 8 / 255)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = attacked_batch(network, images, labels, PGD(steps=2), 0, 8 / 255)
    assert everything_about(network) == before
    assert torch.equal(found, expected)


def test_robust_accuracy_refuses_an_attack_that_leaves_its_ball() -> None:
    network, (images, _) = toy_network(), batch()

    def cheat(network, images, labels, seed):
        return (images + 0.1).clamp(0, 1)

    with pytest.raises(RuntimeError, match=r"epsilon is 0\.0313725"):
        attacked_batch(network, images, own_labels(network, images), cheat, 0, 8 / 255)

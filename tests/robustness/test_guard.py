"""Foreign attacks behind the guard: they work from anywhere, and leave no trace."""

import logging
import sys
import warnings

import pyautoattack
import pytest
import torch
import torchattacks
from attack_toys import batch, everything_about, mixed_modes, own_labels, right, toy_network
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.robustness.attacks import attacked_batch, check_threat_model
from relinearize.robustness.guard import third_party_attack
from relinearize.robustness.third_party import OTHER_DISTANCES, TORCHATTACKS, AutoAttack, Torchattacks

EPSILON = 8 / 255
QUICK = {  # arguments that make them short; the rest is as short as it is
    "steps": {"steps": 2},
    "APGD": {"steps": 3},
    "APGDT": {"steps": 3},
    "DeepFool": {"steps": 2},
    "FAB": {"steps": 2},
    "AutoAttack": {"version": "rand"},  # two attacks in turn instead of four, of which Square takes 5,000 queries
    "Square": {"n_queries": 5},
    "SPSA": {"eps": EPSILON, "nb_sample": 4},
    "EADL1": {"max_iterations": 10, "binary_search_steps": 1},
    "EADEN": {"max_iterations": 10, "binary_search_steps": 1},
    "Pixle": {"max_iterations": 1, "restarts": 1},
    "OnePixel": {"steps": 1, "popsize": 4},
    "PGDRS": {"steps": 1, "noise_batch_size": 2},
    "PGDRSL2": {"steps": 1, "noise_batch_size": 2},
    "PIFGSM": {"num_iter_set": 2},
    "PIFGSMPP": {"num_iter_set": 2},
}
USUAL = ("FGSM", "MIFGSM", "PGDL2", "TPGD", "APGD", "APGDT", "FAB", "Square")
LONG = tuple(name for name in TORCHATTACKS if name not in USUAL)


def quick(name: str) -> dict:
    if name in QUICK:
        return QUICK[name]
    code = getattr(torchattacks, name).__init__.__code__
    return QUICK["steps"] if "steps" in code.co_varnames[: code.co_argcount] else {}


def torchattacks_attack(name: str, network: nn.Module, images: Tensor, labels: Tensor, *, seed: int, arguments: dict):
    return Torchattacks(name, arguments=arguments)(network, images, labels, seed)


def run_named(name: str) -> None:
    """In inference mode, on channels_last images, with a network of mixed modes."""
    network, (images, labels) = toy_network(), batch(4)
    labels = own_labels(network, images)
    mixed_modes(network)
    before = everything_about(network)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        last = images.contiguous(memory_format=torch.channels_last)
        found = torchattacks_attack(name, network, last, labels, seed=3, arguments=quick(name))
    assert everything_about(network) == before
    assert found.dtype == torch.float32
    assert found.grad_fn is None
    assert not found.requires_grad
    assert not found.is_inference()
    if name not in OTHER_DISTANCES and name not in ("PIFGSM", "PIFGSMPP"):
        assert (found - images).abs().max() <= EPSILON + 1e-6
    again = torchattacks_attack(name, network, images, labels, seed=3, arguments=quick(name))
    assert torch.equal(found, again)


@pytest.mark.parametrize("name", USUAL)
def test_torchattacks_by_name(name: str) -> None:
    run_named(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_every_other_attack_of_torchattacks(name: str) -> None:
    run_named(name)


@pytest.mark.parametrize(("name", "arguments"), [("PGD", {"steps": 1}), ("Square", {"eps": 0.5, "n_queries": 2})])
def test_the_seed_reaches_the_attack(name: str, arguments: dict) -> None:
    network, (images, _) = toy_network(), batch()
    labels = own_labels(network, images)
    one, two = (torchattacks_attack(name, network, images, labels, seed=n, arguments=arguments) for n in (0, 1))
    assert not torch.equal(one, two)
    assert not torch.equal(one, images)


def test_the_guard_equals_torchattacks_itself() -> None:
    network, (images, labels) = toy_network(), batch()
    found = torchattacks_attack("PGD", network, images, labels, seed=0, arguments={"random_start": False, "steps": 4})
    assert torch.equal(found, torchattacks.PGD(network, random_start=False, steps=4)(images, labels))


class WithFeatures(nn.Module):
    """A network that answers (logits, features)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(x), x.mean((2, 3))


def test_only_logits_come_out() -> None:
    network, (images, labels) = toy_network(), batch()
    expected = torchattacks_attack("FGSM", network, images, labels, seed=0, arguments={})
    found = torchattacks_attack("FGSM", WithFeatures(network), images, labels, seed=0, arguments={})
    assert torch.equal(found, expected)


class Cliff(nn.Module):
    """Logits are no numbers, and have no gradient, beyond a brightness that attacks reach."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([0.6 - bright, (bright - 0.45) * (0.52 - bright).sqrt() / (0.52 - bright).sqrt()], 1)


@pytest.mark.parametrize("name", ["PGDL2", "Square"])  # others take signs: 0 of what is no number
def test_pixels_stay_finite_where_logits_are_no_numbers(name: str) -> None:
    images, labels = torch.full((3, 3, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    images[1] = 0.3  # out of reach
    attack = Torchattacks(attack=name)
    assert attack(Cliff(), images, labels, 0).isfinite().all()
    assert attacked_batch(Cliff(), images, labels, attack, seed=0, epsilon=None)[1]


def test_unknown_names_and_arguments() -> None:
    network, (images, labels) = toy_network(), batch()
    with pytest.raises(UserError, match=r"no 'PGDX'; valid are APGD, .*PGD, "):
        torchattacks_attack("PGDX", network, images, labels, seed=0, arguments={})
    for name in ("LGV", "MultiAttack"):
        with pytest.raises(UserError, match=f"torchattacks' {name} is made of other attacks or training"):
            torchattacks_attack(name, network, images, labels, seed=0, arguments={})
    with pytest.raises(UserError, match="PGD does not take epsilon; it takes eps, alpha, steps"):
        torchattacks_attack("PGD", network, images, labels, seed=0, arguments={"epsilon": 1})


def test_exceptions_leave_no_trace() -> None:
    network, (images, labels) = toy_network(), batch()
    mixed_modes(network)
    before = everything_about(network)

    def build(logits: nn.Module):
        def attack(pixels: Tensor, labels: Tensor) -> Tensor:
            torch.manual_seed(5)
            network.train()
            logits(pixels).sum().backward()
            raise ArithmeticError

        return attack

    network.eval()
    mixed_modes(network)
    with pytest.raises((ArithmeticError, RuntimeError)):
        third_party_attack(build, network, images, labels, seed=0)
    assert everything_about(network)[:3] == before[:3]
    assert everything_about(network)[4:] == before[4:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x + 9 / 255).clamp(0, 1), "away in Linf"),
        (lambda x: x + 0.01, "in \\[0, 1\\]"),
        (lambda x: x - 0.01, "in \\[0, 1\\]"),
        (lambda x: x * torch.nan, "in \\[0, 1\\]"),
        (lambda x: x[:2], "in \\[0, 1\\]"),
    ],
)
def test_results_outside_the_threat_model_are_refused(change, message: str) -> None:
    network, (images, labels) = toy_network(), batch()
    with pytest.raises(RuntimeError, match=message):
        third_party_attack(lambda logits: lambda x, y: change(x), network, images, labels, seed=0, epsilon=EPSILON)


def test_threat_model_in_other_norms() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    moved = images.clone()
    moved[1, 0, 0, :2] += 0.3  # 0.6 in L1, 0.424 in L2
    check_threat_model(images, moved, 0.6, "L1")
    check_threat_model(images, moved, 0.425, "L2")
    check_threat_model(images, moved, None)
    for norm, epsilon in (("L1", 0.59), ("L2", 0.42), ("Linf", 0.29)):
        with pytest.raises(RuntimeError, match=norm):
            check_threat_model(images, moved, epsilon, norm)


# ---- AutoAttack ------------------------------------------------------------------------------------------------------


def autoattack(network: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, seed: int, **settings) -> Tensor:
    """`settings`: parts and their steps and queries, as sub-classes have them."""
    return type("Parts", (AutoAttack,), settings)(255 * epsilon)(network, images, labels, seed)


@pytest.fixture
def fab_runs(monkeypatch) -> list[bool]:
    """Two steps of FAB instead of its fixed hundred; lists whether each run of it was targeted."""
    init, perturb, runs = FABAttack_PT.__init__, FABAttack_PT.perturb, []

    def short(self, *arguments, **settings) -> None:
        init(self, *arguments, **settings | {"n_iter": 2})

    def counted(self, *arguments) -> Tensor:
        runs.append(self.targeted)
        return perturb(self, *arguments)

    monkeypatch.setattr(FABAttack_PT, "__init__", short)
    monkeypatch.setattr(FABAttack_PT, "perturb", counted)
    return runs


@pytest.mark.parametrize("further", [("apgd-dlr", "square"), ("apgd-t",), ("fab",), ("fab-t",)])
def test_autoattack_parts_leave_no_trace(further: tuple[str, ...], fab_runs: list[bool]) -> None:
    network, (images, _) = toy_network(), batch(8)
    labels = own_labels(network, images)
    mixed_modes(network)
    before, trace = everything_about(network), sys.gettrace()
    parts = {"parts": ("apgd-ce", *further), "steps": 3, "queries": 10}
    with torch.inference_mode():
        last = images.contiguous(memory_format=torch.channels_last)
        found = autoattack(network, last, labels, epsilon=EPSILON, seed=0, **parts)
    assert everything_about(network) == before
    assert sys.gettrace() is trace
    assert not logging.getLogger("auto-attack").handlers
    assert (found - images).abs().max() <= EPSILON + 1e-6
    assert torch.equal(found, autoattack(network, images, labels, epsilon=EPSILON, seed=0, **parts))
    assert set(fab_runs) == ({"-t" in further[0]} if "fab" in further[0] else set())


def test_autoattack_standard_has_the_official_settings(monkeypatch) -> None:
    """What is run is read from the object of the official class, not from what we asked for."""
    seen = {}

    def run(self, images: Tensor, labels: Tensor, *, batch_size: int):
        seen.update(
            parts=self.attacks_to_run,
            version=self.version,
            steps=(self.apgd.n_iter, self.apgd_targeted.n_iter),
            fab=(self.fab.n_iter, self.fab.n_restarts),
            targets=self.apgd_targeted.n_target_classes,
            square=(self.square.n_queries, self.square.rescale_schedule),
            restarts=self.apgd.n_restarts,
        )
        return images, labels

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    network, (images, labels) = toy_network(classes=12), batch()
    autoattack(network, images, labels, epsilon=EPSILON, seed=0)
    assert seen == {
        "parts": ["apgd-ce", "apgd-t", "fab-t", "square"],
        "version": "standard",
        "steps": (100, 100),
        "fab": (100, 1),
        "targets": 9,
        "square": (5000, False),
        "restarts": 1,
    }
    autoattack(toy_network(classes=5), images, labels, epsilon=EPSILON, seed=0)
    assert seen["targets"] == 4


@pytest.mark.slow
def test_autoattack_standard_runs() -> None:
    network, (images, _) = toy_network(), batch(4)
    labels = own_labels(network, images)
    mixed_modes(network)
    before = everything_about(network)
    found = autoattack(network, images, labels, epsilon=0.2, seed=0)
    assert everything_about(network) == before
    assert (found - images).abs().max() <= 0.2 + 1e-6
    assert not right(network.eval(), found, labels).any()


def test_too_few_classes() -> None:
    images, labels = batch()
    for classes, what in ((3, {}), (2, {"parts": ("apgd-dlr",)})):
        with pytest.raises(UserError, match=f"the network has {classes}"):
            autoattack(toy_network(classes=classes), images, labels % 2, epsilon=EPSILON, seed=0, **what)
    with pytest.raises(UserError, match="torchattacks' AutoAttack compares 4 logits"):
        torchattacks_attack("AutoAttack", toy_network(classes=3), images, labels % 3, seed=0, arguments={})


class Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)


def test_flags_are_warnings() -> None:
    network, (images, _) = toy_network(), batch()
    labels = own_labels(network, images)
    settings = {"epsilon": EPSILON, "seed": 0, "parts": ("apgd-ce",), "steps": 2}
    with pytest.warns(UserWarning, match="AutoAttack: .*probability distribution"):
        autoattack(Probabilities(network), images, labels, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autoattack(network, images, labels, **settings)

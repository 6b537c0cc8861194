"""What must hold on a CUDA device too. Each test also runs on the CPU, so that its code is known to work there.

`pytest -m gpu` runs the CUDA halves; they are left out by default.
"""

import copy
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from relinearize.commands.evaluate import main as evaluate_run
from relinearize.conf_folder import conf_folder
from relinearize.convolution import resolve_convolutions
from relinearize.evaluation import attacked as robust_attacks
from relinearize.evaluation import checks as robust_checks
from relinearize.evaluation.robustness import exact_arithmetic
from relinearize.methods.rlnet.inner_attack import InnerAttack
from relinearize.methods.senet.mismatch import add_mismatch
from relinearize.records.robustness import RobustRecord
from relinearize.records.run import Record, find_records
from relinearize.relu.budget import top_mask
from relinearize.robustness.attack import pgd
from relinearize.runs.pipeline import run

DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
TINY = [
    "backbone.width=4",
    "dataset.subset=100",
    "method.teacher.epochs=1",
    "method.teacher.batch_size=64",
    "method.search.epochs=1",
    "method.search.batch_size=64",
    "method.finetune.epochs=1",
    "logger=none",
    "trainer.progress=none",
]
TINY_RLNET = ["method=rlnet", "sensitivity.epochs=1"] + [
    f"method.{stage}.{setting}"
    for stage in ("teacher", "search", "finetune")
    for setting in ("attack.steps=2", "robust_validation.steps=2", "robust_validation.images=20")
]
FLOAT32_ERROR = 1e-3  # of a sum of 576 products of size 1; TF32, of 10 bits, is off by ten times as much


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mismatch_is_summed_on_the_device(device: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(9, 4, 5, 5, generator=generator).to(device, dtype) for _ in range(2))
    total = torch.zeros(4, 5, 5, device=device)
    add_mismatch(total, student.contiguous(memory_format=torch.channels_last), teacher)
    expected = (teacher - student).abs().float().sum(0)
    assert total.device.type == device
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_masks_do_not_depend_on_the_device(device: str) -> None:
    scores = {"a": torch.arange(24.0).remainder(7).view(2, 3, 4), "b": torch.arange(10.0).remainder(4)}
    assert top_mask({name: score.to(device) for name, score in scores.items()}, 13) == top_mask(scores, 13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "method",
    [
        ["method=snl"],
        ["method=senetpp", "sensitivity.epochs=1"],
        ["method=snl", "method/finetune=retrain", "trainer.compile=reduce-overhead"],
        ["method=senetpp", "sensitivity.epochs=1", "trainer.compile=reduce-overhead"],
    ],
)
def test_a_run_from_teacher_to_record(device: str, method: list[str], tmp_path) -> None:
    """On CUDA with the defaults there: bf16 autocast and torch.compile, whose graphs must see the hooks on sites."""
    record, path = tiny_run(device, method, tmp_path)
    assert record.hardware.accelerator == device
    assert record.hardware.precision == ("bf16" if device == "cuda" else "32")
    assert record.hardware.convolutions == ("torch" if device == "cuda" else resolve_convolutions("auto"))
    assert record.budget.met == record.budget.asked
    assert all(torch.isfinite(value).all() for value in load_file(path / "weights.safetensors").values())


def tiny_run(device: str, method: list[str], folder) -> tuple[Record, Path]:
    """(record, folder) of a run; on CUDA in a process of its own, which no test has changed settings of torch in."""
    settings = [*TINY, *method, f"trainer.accelerator={device}", f"output={folder}"]
    if device == "cpu":
        settings += ["trainer.compile=auto"]  # off: compiling takes minutes there
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return run(compose("config", settings))
    command = [sys.executable, "-m", "relinearize", "run", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("runs/*/record.json")
    return Record.read(path), path.parent


# ---- robust training and its evaluation ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=DEVICES)
def rlnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(device, folder of a tiny RLNet run on it)."""
    return request.param, tiny_run(request.param, TINY_RLNET, tmp_path_factory.mktemp("rlnet"))[1]


def test_a_robust_run_leaves_each_route(rlnet: tuple[str, Path]) -> None:
    device, folder = rlnet
    found = find_records([folder])
    assert [(record.route, path.parent) for path, record in found] == [
        ("clean", folder),
        ("adversarial", folder / "route-adversarial"),
    ]
    for path, record in found:
        assert record.hardware.accelerator == device
        assert record.hardware.precision == ("bf16" if device == "cuda" else "32")
        assert record.budget.met == record.budget.asked > 0
        assert all(torch.isfinite(value).all() for value in load_file(path.parent / "weights.safetensors").values())
    for name in ("teacher", "search", "finetune"):
        for row in found[0][1].stages[name].history:
            assert all(math.isfinite(value) for value in row.values())
            assert 0 <= row["val/robust"] <= 100 and row["train/cross_entropy_adversarial"] > 0


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    """What training may have set: CUDA may round factors to 10 bits."""
    former = tf32_flags()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = former


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("tf32_allowed")
def test_a_robust_evaluation_in_full_float32(rlnet: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    device, folder = rlnet
    inside, attacked = [], robust_attacks.attacked_batch

    def watched(network: nn.Module, images: torch.Tensor, *arguments):
        assert images.device.type == device and not torch.is_autocast_enabled(device)
        assert {value.dtype for value in (images, *network.parameters())} == {torch.float32}
        inside.append((tf32_flags(), max(largest_errors(device))))
        return attacked(network, images, *arguments)

    monkeypatch.setattr(robust_attacks, "attacked_batch", watched)
    if device == "cpu":  # where tests/evaluation has all checks
        few = {name: robust_checks.CHECKS[name] for name in ("threat model", "determinism")}
        monkeypatch.setattr(robust_checks, "CHECKS", few)
    sizes = ["evaluation.n_attack=8", "evaluation.n_checks=2", "evaluation.corruptions=none"]
    attacks = ["evaluation.attacks=[fgsm,pgd20]", "attack.pgd20.steps=2"]
    arguments = [f"run={folder}", "evaluation=robust", f"accelerator={device}", *attacks, *sizes]
    records = evaluate_run(arguments, Console(quiet=True))

    assert len(inside) == 4, "two attacks on each of two routes"
    assert all(flags == (False, False) and error < FLOAT32_ERROR for flags, error in inside)
    assert tf32_flags() == (True, True)
    for record, place in zip(records, (folder, folder / "route-adversarial"), strict=True):
        assert RobustRecord.read(place / "robustness.json") == record
        run_record = Record.read(place / "record.json")
        # The run's own test knows nothing of exact arithmetic: on a card an image on the border may differ.
        allowed = 0.0 if device == "cpu" else 2 * 100 / record.clean.n
        assert abs(record.clean.accuracy - run_record.accuracy.test) <= allowed
        assert [(attack.label, attack.n) for attack in record.attacks] == [("FGSM", 8), ("PGD-2 (CE)", 8)]
        checks = {check.name: check for check in record.checks}
        assert "transfer" in checks
        assert checks["clean agreement"].passed and checks["determinism"].passed and checks["threat model"].passed
    assert [record.route for record in records] == ["clean", "adversarial"]


def largest_errors(device: str) -> list[float]:
    """Of a convolution and of a product of matrices, as they are computed now; sums of 576 products of size 1."""
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(8, 64, side, side, generator=generator) for side in (8, 3))
    rows, columns = torch.randn(64, 576, generator=generator), torch.randn(576, 64, generator=generator)
    found = F.conv2d(images.to(device), weight.to(device)), rows.to(device) @ columns.to(device)
    exact = F.conv2d(images.double(), weight.double()), rows.double() @ columns.double()
    return [(one.cpu().double() - other).abs().max().item() for one, other in zip(found, exact, strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", ["ce", "margin", "kl"])
def test_our_pgd_equals_that_of_the_cpu_in_float64(device: str, loss: str) -> None:
    """Where a gradient is almost zero its sign may differ, and what follows from it: few values, and no weaker attack.

    float32 and channels_last, as in training; from the images, since each kind of device draws other starts.
    """
    network, images, targets = attacked_toy(loss)
    settings = {"epsilon": 8 / 255, "step_size": 2 / 255, "steps": 7, "loss": loss, "random_start": False}
    wanted = pgd(network, images, targets, **settings)
    targets = targets.to(device, torch.float32) if loss == "kl" else targets.to(device)
    pixels = images.to(device, torch.float32).contiguous(memory_format=torch.channels_last)
    with exact_arithmetic():
        ours = pgd(copy.deepcopy(network).to(device, torch.float32), pixels, targets, **settings)
    assert ours.device.type == device and ours.dtype == torch.float32
    found = ours.cpu().double()
    assert (found - images).abs().max() <= 8 / 255 + 1e-6 and found.min() >= 0 and found.max() <= 1
    differing = (found - wanted).abs() > 1e-5
    assert differing.double().mean() < 0.002  # with TF32 it would be about 0.005
    assert (wanted - images).abs().mean() > 4 / 255, "an attack that moves nothing would be equal, too"
    labels = attacked_toy("ce")[2]
    with torch.no_grad():
        losses = [F.cross_entropy(network(attacked), labels, reduction="none") for attacked in (found, wanted)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_the_attack_of_a_step_is_a_function_of_where_training_stands(device: str) -> None:
    """A resumed training must attack as it would have, whatever else drew random numbers on the device."""
    network, images, labels = attacked_toy("ce")
    network, images, labels = network.float().to(device), images.float().to(device), labels.to(device)
    attack = InnerAttack(steps=2)

    def random_state() -> torch.Tensor:
        return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()

    former = random_state()
    first = attack(network, images, labels, start=(0, 1, 2))
    assert torch.equal(random_state(), former)
    torch.rand(7, device=device)
    assert torch.equal(attack(network, images, labels, start=(0, 1, 2)), first)
    assert not torch.equal(attack(network, images, labels, start=(0, 1, 3)), first)


def attacked_toy(loss: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """(network, pixels, targets), on the CPU in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 5),
        )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(16, 3, 8, 8, generator=generator).double()
    labels, logits = torch.arange(16) % 5, 3 * torch.randn(16, 5, generator=generator).double()
    return network.double().eval(), images, logits if loss == "kl" else labels

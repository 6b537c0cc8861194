"""The GPU hours in the heads of the paper's experiments are what scripts/gpu_hours.py computes, and this is right."""

import sys
from pathlib import Path

import pytest

from relinearize.conf_folder import conf_folder

ROOT = Path(__file__).resolve().parents[2]
PAPER = conf_folder() / "experiment/paper"


@pytest.fixture(scope="module")
def gpu_hours():
    sys.path.insert(0, str(ROOT / "scripts"))
    import gpu_hours

    yield gpu_hours
    sys.path.remove(str(ROOT / "scripts"))
    del sys.modules["gpu_hours"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in PAPER.glob("*.yaml")))
def test_the_heads_say_what_is_computed(gpu_hours, name):
    """So every stage has its passes: without them there would be no sum."""
    assert gpu_hours.head_line(name) in (PAPER / f"{name}.yaml").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "operations", "relus"),
    [  # operations of ResNet-18's convolutions and classifier by hand, in units of 2^20 multiplications
        ("snl_cifar100_resnet18", 2 * ((1.6875 + 4 * 36 + 3 * (18 + 3 * 36 + 2)) * 2**20 + 512 * 100), 491_520),
        ("senet_cifar100_resnet18", 2 * ((1.6875 + 4 * 36 + 3 * (18 + 3 * 36 + 2)) * 2**20 + 512 * 100), 557_056),
        ("snl_cifar100_wrn22_8", None, 1_359_872),
    ],
)
def test_operations_and_relus_of_the_networks(gpu_hours, name, operations, relus):
    found, total = gpu_hours.network_facts(gpu_hours.experiment(name)[0])
    assert total == relus
    assert operations is None or found == operations


def test_the_sum_by_hand(gpu_hours):
    """SENet on CIFAR-10: 45,000 images; the teacher and the sensitivities once, the rest for each of three budgets."""
    stages = {stage.stage: stage for stage in gpu_hours.stage_hours("senet_cifar10_resnet18", rate=1.0)}
    operations, _ = gpu_hours.network_facts(gpu_hours.experiment("senet_cifar10_resnet18")[0])
    hour = 45_000 * operations / 1e12 / 3600
    wanted = {"teacher": 240 * 3, "sensitivity": 40 * 3, "search": 3 * 150 * 4, "finetune": 3 * 240 * 4}
    assert {name: stage.hours for name, stage in stages.items()} == pytest.approx(
        {name: passes * hour for name, passes in wanted.items()}
    )


def test_epochs_of_snl_go_by_share_and_steps(gpu_hours):
    assert gpu_hours.snl_epochs(50_000 / 491_520, 50_000) == pytest.approx(250)
    assert gpu_hours.snl_epochs(50_000 / 491_520, 100_000) == pytest.approx(125)
    assert 219 < gpu_hours.snl_epochs(55_000 / 491_520, 50_000) < 250
    with pytest.raises(ValueError, match="logs"):
        gpu_hours.snl_epochs(0.001, 50_000)


def test_errors_and_other_rates(gpu_hours, capsys):
    with pytest.raises(SystemExit):
        gpu_hours.main(["nothing"])
    assert "no such experiment: nothing" in capsys.readouterr().err
    gpu_hours.main(["senet_cifar10_resnet18", "--rate", "80"])
    assert "hours at 80 TFLOP/s" in capsys.readouterr().out

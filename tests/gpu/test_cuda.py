"""What must hold on a CUDA device too. Each test also runs on the CPU, so that its code is known to work there.

`pytest -m gpu` runs the CUDA halves; they are left out by default.
"""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from relinearize.experiment.records import Record
from relinearize.methods.mismatch import add_mismatch
from relinearize.relu.activation import MaskedReLU, SlopedReLU
from relinearize.relu.budget import top_mask

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TINY = [
    "backbone.width=4",
    "dataset.subset=200",
    "method.teacher.epochs=2",
    "method.teacher.batch_size=64",
    "method.search.epochs=3",
    "method.search.batch_size=64",
    "method.finetune.epochs=1",
    "logger=none",
    "trainer.progress=none",
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_activations_equal_their_formulas(device: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 5, 5, generator=generator).to(device, dtype).contiguous(memory_format=layout)
    gradient = torch.randn(4, 6, 5, 5, generator=generator).to(device, dtype).contiguous(memory_format=layout)
    masked, sloped = MaskedReLU((6, 5, 5)).to(device), SlopedReLU((6, 5, 5)).to(device)
    masked.mask.copy_(torch.rand(6, 5, 5, generator=generator) < 0.5)
    with torch.no_grad():
        sloped.alpha.copy_(torch.rand(6, 5, 5, generator=generator))

    leaf = x.clone().requires_grad_()
    output = masked(leaf)
    output.backward(gradient)
    assert torch.equal(output, torch.where(masked.mask, torch.relu(x), x))
    assert torch.equal(leaf.grad, torch.where(masked.mask & (x <= 0), 0, gradient))

    leaf = x.clone().requires_grad_()
    output = sloped(leaf)
    output.backward(gradient)
    wide_x, wide_gradient, alpha = x.double(), gradient.double(), sloped.alpha.detach().double()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(output.double(), wide_x - alpha * wide_x.clamp(max=0), **tolerance)
    torch.testing.assert_close(leaf.grad.double(), torch.where(wide_x > 0, 1, 1 - alpha) * wide_gradient, **tolerance)
    torch.testing.assert_close(sloped.alpha.grad.double(), -(wide_gradient * wide_x.clamp(max=0)).sum(0), **tolerance)


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
@pytest.mark.parametrize("method", [["method=snl"], ["method=senetpp", "sensitivity.epochs=2"]])
def test_a_run_from_teacher_to_record(device: str, method: list[str], tmp_path) -> None:
    """On CUDA with the defaults there: bf16 autocast and torch.compile, whose graphs must see the hooks on sites."""
    settings = [*TINY, *method, f"trainer.accelerator={device}", f"output={tmp_path}"]
    command = [sys.executable, "-m", "relinearize", "run", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/record.json")
    record = Record.read(path)
    assert record.hardware.accelerator == device
    assert record.hardware.precision == ("bf16" if device == "cuda" else "32")
    assert record.budget.met == record.budget.asked
    assert all(torch.isfinite(value).all() for value in load_file(path.parent / "weights.safetensors").values())

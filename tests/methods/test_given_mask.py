"""method=given: masks of files, ours and those of SNL's released code, under a retraining or an evaluation."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from quick_runs import quick_plan, quick_run
from safetensors.torch import load_file, save_file

from relinearize.errors import UserError
from relinearize.methods.baselines.given_mask import GivenMask
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.runs.recall import note_of

SHAPES = {"a": (2, 3, 3), "b": (4, 2, 2)}
KEPT = {
    "a": torch.arange(18).reshape(2, 3, 3) % 3 == 0,  # 6
    "b": torch.arange(16).reshape(4, 2, 2) % 8 == 0,  # 2
}


def own_file(folder: Path, positions: dict[str, torch.Tensor] = KEPT) -> Path:
    mask = Mask(positions)
    mask.to_file(folder / "mask.safetensors", MaskMetadata("toy", "all", (3, 3, 3), mask.count, mask.count, "k"))
    return folder / "mask.safetensors"


def released_file(folder: Path, **others: torch.Tensor) -> Path:
    """As the released code of SNL leaves it: weights and slopes in one state dict, slopes 1 x C x H x W."""
    slopes = {f"layer1.{name}.alphas": torch.where(kept, 0.5, 0.009)[None] for name, kept in KEPT.items()}
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2, 3, 3, 3), **slopes, **others}}, folder / "best.pth")
    return folder / "best.pth"


@pytest.mark.parametrize("file", [own_file, released_file])
def test_a_file_is_its_mask(file, tmp_path) -> None:
    search = GivenMask(str(file(tmp_path)))
    assert search.mask(SHAPES) == Mask(KEPT)
    assert search.budget(SHAPES) == 8
    assert {name: score.tolist() for name, score in search.scores(SHAPES, seed=0).items()} == {
        name: kept.float().tolist() for name, kept in KEPT.items()
    }


def test_sites_stand_in_the_order_of_the_network(tmp_path) -> None:
    file = own_file(tmp_path, {"b": KEPT["b"], "a": KEPT["a"]})
    assert list(GivenMask(str(file)).mask(SHAPES)) == ["a", "b"]


def test_what_is_no_mask_of_the_network_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"method\.search\.file is not given"):
        GivenMask()
    for file in ("nowhere.pt", ".", 3, [1]):
        with pytest.raises(UserError, match=rf"method\.search\.file={re.escape(str(file))} is no file"):
            GivenMask(file)
    with pytest.raises(UserError, match=r"method\.search\.file: the mask does not fit the network: .*\[c\]"):
        GivenMask(str(own_file(tmp_path))).mask({**SHAPES, "c": (1, 2, 2)})
    file = str(released_file(tmp_path))
    with pytest.raises(UserError, match=r"2 tensors .*, first layer1\.a\.alphas 1x2x3x3; the network has 1 sites"):
        GivenMask(file).mask({"a": (2, 3, 3)})
    with pytest.raises(UserError, match=r"first layer1\.a\.alphas 1x2x3x3; the network has 2 sites, first a 2x6x6"):
        GivenMask(file).mask({"a": (2, 6, 6), "b": (4, 2, 2)})
    broken = str(released_file(tmp_path, **{"layer1.b.alphas": torch.full((1, 4, 2, 2), torch.nan)}))
    with pytest.raises(UserError, match=r"layer1\.b\.alphas has values that are not finite"):
        GivenMask(broken).mask(SHAPES)
    save_file({"a": torch.ones(2, 3, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"method\.search\.file: .* not a mask written by relinearize"):
        GivenMask(str(tmp_path / "weights.safetensors")).mask(SHAPES)


def test_a_mask_of_another_run_is_retrained(tmp_path, taught) -> None:
    """The same mask and the teacher's weights: the networks of both runs are the same to the bit."""
    retrain = "method/finetune=retrain"
    tmp_path = taught()
    expected, first = quick_run(tmp_path, retrain, "budget.relus=300", method="random")
    record, path = quick_run(tmp_path, f"method.search.file={first / 'mask.safetensors'}", method="given")
    assert (record.budget.asked, record.budget.met, record.method.name) == (300, 300, "given")
    assert record.accuracy.test == expected.accuracy.test
    weights, wanted = (load_file(folder / "weights.safetensors") for folder in (path, first))
    assert all(torch.equal(weights[name], value) for name, value in wanted.items())

    shutil.copy(first / "mask.safetensors", tmp_path / "moved.safetensors")
    moved = quick_plan(tmp_path, f"method.search.file={tmp_path / 'moved.safetensors'}", method="given")
    assert moved.run.path == path, "a result's key has the mask, not the place of its file"
    assert note_of(moved.request.config) is None, "another mask may stand in the same file tomorrow"

    with pytest.raises(UserError, match=r"mask\.safetensors keeps 300 ReLUs; give no other budget"):
        quick_plan(tmp_path, f"method.search.file={first / 'mask.safetensors'}", "budget.relus=200", method="given")
    with pytest.raises(UserError, match=r"method\.search: .* unexpected keyword argument 'epochs'"):
        quick_plan(tmp_path, "+method.search.epochs=3", method="given")
    with pytest.raises(UserError, match="allocation=sites: this search itself decides where ReLUs stay"):
        quick_plan(tmp_path, f"method.search.file={first / 'mask.safetensors'}", "allocation=sites", method="given")


def test_a_released_checkpoint_is_evaluated_as_it_is(tmp_path, taught) -> None:
    """teacher.weights and no fine-tuning: the network that another program left, with its mask."""
    record, trained = quick_run(taught(), "budget.relus=300", method="random")
    mask, _ = Mask.from_file(trained / "mask.safetensors")
    slopes = {f"{name}.alphas": kept.float()[None] for name, kept in mask.items()}
    file = tmp_path / "best.pth"
    torch.save(load_file(trained / "weights.safetensors") | slopes, file)
    settings = [f"method.search.file={file}", f"teacher.weights={file}", "method/finetune=none"]
    again, _ = quick_run(tmp_path, *settings, "method.finetune.epochs=0", method="given")  # which quick runs set
    assert again.accuracy.test == record.accuracy.test
    assert again.budget.met == 300

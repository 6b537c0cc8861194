"""Weights that were trained elsewhere: which tensor of a file belongs to which of the network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from relinearize.backbones.weights import load_initial, match_weights, read_weights, without_prefixes
from relinearize.errors import UserError


def network() -> nn.Module:
    """Of nn.Sequential blocks; each tensor has values of its own. The three of 4 values of a norm fit each other."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(11)]
    found = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4, 2))
    for number, value in enumerate(found.state_dict().values()):
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) + number)
    return found


def saved(weights: dict[str, Tensor], path: Path) -> Path:
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


def assert_read(path: Path, theirs: nn.Module) -> None:
    found = match_weights(network(), read_weights(path), path)
    assert list(found) == list(network().state_dict())
    for name, value in theirs.state_dict().items():
        assert value.equal(found[name]), name


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net.module."]
)
def test_what_wrappers_put_before_names_does_not_matter(tmp_path: Path, prefix: str, suffix: str) -> None:
    weights = {f"{prefix}{name}": value for name, value in network().state_dict().items()}
    assert_read(saved(weights, tmp_path / f"teacher{suffix}"), network())


def test_a_file_of_two_networks_is_refused() -> None:
    own = nn.Linear(2, 2).state_dict()
    both = {f"{name}.{key}": value for name in ("model", "net") for key, value in own.items()}
    with pytest.raises(UserError, match=r"holds several networks \(model, net\)"):
        without_prefixes(both, own)


def test_a_wrapped_file_starts_a_network_with_another_head(tmp_path: Path) -> None:
    weights = {f"module.{name}": value for name, value in network().state_dict().items()}
    ours = network()
    ours[-1] = nn.Linear(4, 7)
    head = ours[-1].weight.clone()
    load_initial(ours, saved(weights, tmp_path / "two_classes.pt"))
    assert ours[0][0].weight.equal(network()[0][0].weight) and ours[-1].weight.equal(head)


def test_a_last_layer_without_bias_starts_from_a_file_with_one(tmp_path: Path) -> None:
    ours = network()
    ours[-1] = nn.Linear(4, 2, bias=False)
    load_initial(ours, saved(network().state_dict(), tmp_path / "biased.pt"))
    assert ours[-1].weight.equal(network()[-1].weight)


def test_the_state_dict_is_found_in_checkpoints_of_checkpoints(tmp_path: Path) -> None:
    for number, keys in enumerate(
        (["state_dict"], ["ema", "model_state_dict"], ["model"], ["model_ema", "state_dict"])
    ):
        content = network().state_dict()
        for key in reversed(keys):
            content = {"epoch": 3, key: content}
        path = tmp_path / f"{number}.pt"
        torch.save(content, path)
        assert_read(path, network())


def test_counters_and_other_modules_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averaged = AveragedModel(network())  # with n_averaged, and `module.` before the others
    assert_read(saved(averaged.state_dict(), tmp_path / "averaged.pt"), network())
    assert capsys.readouterr().err == ""
    profiled = {f"model.{name}": value for name, value in network().state_dict().items()}
    profiled |= {"model.total_ops": torch.zeros(1), "model.0.0.total_params": torch.zeros(1)}
    profiled |= {"criterion.weight": torch.ones(2)}
    path = saved(profiled, tmp_path / "profiled.pt")
    assert_read(path, network())
    assert capsys.readouterr().err == (
        f"{path}: 1 tensors that the backbone does not have are left out, first criterion.weight\n"
    )


def test_other_names_are_matched_by_order_where_their_kinds_agree(tmp_path: Path) -> None:
    other = {f"features.{name}": value for name, value in network().state_dict().items()}
    assert_read(saved(other, tmp_path / "other.pt"), network())
    without = {name: value for name, value in other.items() if "num_batches" not in name}
    path = saved(without, tmp_path / "without.pt")
    found = match_weights(network(), read_weights(path), path)
    assert all(found[name.removeprefix("features.")].equal(value) for name, value in without.items())


def test_names_in_the_order_of_the_alphabet_are_not_taken_for_the_networks(tmp_path: Path) -> None:
    """In a .safetensors file 10 stands before 2, and a norm's bias before its weight: all shapes agree."""
    other = {f"features.{name}": value for name, value in network().state_dict().items()}
    path = saved(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"names are others, and a \.safetensors file keeps no order; rename .* 0\.0\."):
        match_weights(network(), read_weights(path), path)
    path = saved(dict(sorted(other.items())), tmp_path / "sorted.pt")
    with pytest.raises(
        UserError, match=r"has 0\.0\.weight \(4, 4, 3, 3\), the file features\.0\.0\.bias \(4,\)"
    ) as caught:
        match_weights(network(), read_weights(path), path)
    assert len(str(caught.value)) < 400


def test_what_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    weights = network().state_dict()
    for change, message in (
        (lambda: weights.pop("12.bias"), r"fit the backbone: it lacks 12\.bias \(2,\)"),
        (
            lambda: weights.update({"12.bias": torch.zeros(3)}),
            r"the backbone has 12\.bias \(2,\), the file 12\.bias \(3,\)",
        ),
        (
            lambda: weights.update({"12.bias": torch.tensor([0.0, float("nan")])}),
            r"12\.bias has values that are not finite",
        ),
    ):
        change()
        path = saved(weights, tmp_path / "teacher.pt")
        with pytest.raises(UserError, match=message):
            match_weights(network(), read_weights(path), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight.to(torch.complex64), "is torch.complex64"),
        (lambda weight: (100 * weight).to(torch.int8), "is torch.int8"),
        (lambda weight: weight.to_sparse(), "torch.sparse_coo"),
        (lambda weight: weight.to("meta"), "1.1.running_var is torch.float32"),
        (lambda weight: -weight, "has negative values, which no variance has"),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path: Path, change: Callable[[Tensor], Tensor], message: str) -> None:
    weights = network().state_dict()
    weights["1.1.running_var"] = change(weights["1.1.running_var"])
    path = tmp_path / "odd.pt"
    torch.save(weights, path)
    with pytest.raises(UserError, match=message):
        match_weights(network(), read_weights(path), path)


def test_of_several_state_dicts_the_taken_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = network().state_dict()
    path = tmp_path / "two.pt"
    torch.save({"ema": {"x": torch.ones(1)}, "model": weights}, path)
    assert_read(path, network())
    assert "holds model, ema: model is taken" in capsys.readouterr().err

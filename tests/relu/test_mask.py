"""The mask type and its file."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from relinearize import load_mask, save_mask
from relinearize.backbones import build_backbone
from relinearize.errors import UserError
from relinearize.relu import mask as mask_module
from relinearize.relu.mask import Mask, MaskMetadata, relu_counts
from relinearize.relu.sites import linearize, named_sites, to_sloped


def network(convention: str = "senet"):
    model = build_backbone("resnet8", classes=4, image_size=8, width=4, convention=convention)
    return linearize(model, (3, 8, 8))


def random_mask(seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(m.shape, generator=generator) < 0.4 for name, m in Mask.full(network()).items()})


def metadata(mask: Mask, **changes: object) -> MaskMetadata:
    content = {
        "backbone": "resnet8", "convention": "senet", "input_size": (3, 8, 8), "asked": mask.count, "met": mask.count,
        "key": "ab12", "extra": {"seed": 3},
    }  # fmt: skip
    return MaskMetadata(**{**content, **changes})


def test_round_trip(tmp_path: Path) -> None:
    mask = random_mask()
    save_mask(mask, tmp_path / "new" / "mask.safetensors", metadata(mask))
    read, said = load_mask(tmp_path / "new" / "mask.safetensors")
    assert read == mask and list(read) == list(mask) and said == metadata(mask)
    assert said.input_size == (3, 8, 8) and said.extra == {"seed": 3}
    assert os.listdir(tmp_path / "new") == ["mask.safetensors"]


def test_apply_and_of() -> None:
    target, mask = network(), random_mask()
    mask.apply(target)
    assert Mask.of(target) == mask and relu_counts(target) == mask.counts
    assert mask.total == Mask.full(target).count == Mask.full(target).total
    assert repr(mask) == f"Mask({mask.count:,} of {mask.total:,} ReLUs kept at {len(mask)} sites)"
    next(iter(named_sites(target).values())).mask.zero_()
    assert Mask.of(target) != mask  # the mask is a copy of its own


@pytest.mark.parametrize(
    ("kept", "unit"),
    [
        ({"a": [[1, 1], [1, 1]], "b": [1, 1]}, "none"),
        ({"a": [[1, 1], [1, 1]], "b": [0, 0]}, "layers"),
        ({"a": [[1, 1], [0, 0]], "b": [1, 1]}, "channels"),
        ({"a": [[1, 0], [0, 0]], "b": [0, 0]}, "positions"),
        ({"a": [[1, 1], [0, 0]], "b": [1, 0]}, "positions"),
    ],
)
def test_unit_of_what_is_removed(kept: dict, unit: str) -> None:
    assert Mask({name: torch.tensor(values).bool() for name, values in kept.items()}).unit == unit


def test_masks_hold_bools_only() -> None:
    for value, found in ((torch.ones(3), "torch.float32"), ([True], "list")):
        with pytest.raises(UserError, match=f"site a is .*{found}.*bool tensors only"):
            Mask({"a": value})
    values = torch.ones(3, dtype=torch.bool)
    mask = Mask({"a": values})
    values.zero_()
    assert mask.count == 3


def test_what_does_not_fit_is_refused_saying_both_sides() -> None:
    with pytest.raises(UserError, match=r"network's sites \[\] are not in the mask.* mask's sites \[relu1\]"):
        random_mask().apply(network("snl"))
    wrong = Mask({name: torch.ones(1, dtype=torch.bool) for name in random_mask()})
    with pytest.raises(UserError, match="site relu1 is 1 in the mask and 4x8x8 in the network"):
        wrong.apply(network())
    sloped = network()
    to_sloped(sloped)
    with pytest.raises(UserError, match="has slopes and takes no mask"):
        random_mask().apply(sloped)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"backbone": "resnet18"}, "backbone=resnet8, but backbone=resnet18"),
        ({"convention": "snl"}, "convention=senet, but convention=snl"),
        ({"input_size": (3, 32, 32)}, "input_size=3x8x8, but input_size=3x32x32"),
    ],
)
def test_metadata_check(wanted: dict, message: str) -> None:
    said = metadata(random_mask())
    said.check(backbone="resnet8", convention="senet", input_size=[3, 8, 8])
    said.check()
    with pytest.raises(UserError, match=message):
        said.check(**wanted)


@pytest.mark.parametrize(("name", "value", "kind"), [("asked", 0.1, "an integer"), ("key", 3, "a text")])
def test_metadata_that_no_file_could_be_read_with_is_refused(name: str, value: object, kind: str) -> None:
    given = {"backbone": "mine", "convention": "all", "input_size": (4,), "asked": 1, "met": 1, "key": "a"}
    with pytest.raises(TypeError, match=f"metadata {name} is not {kind}"):
        MaskMetadata(**{**given, name: value})


def test_met_must_be_what_the_mask_keeps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="met=5"):
        random_mask().to_file(tmp_path / "m", metadata(random_mask(), met=5))


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    mask = random_mask()
    good = folder / "good"
    mask.to_file(good, metadata(mask))
    content = good.read_bytes()
    (folder / "cut").write_bytes(content[: len(content) // 2])
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("a pickle, perhaps")
    save_file({"a": torch.ones(2)}, folder / "foreign")
    tensors = {name: kept.to(torch.uint8) for name, kept in mask.items()}
    header = {"version": 1, "sites": list(mask), "metadata": metadata(mask).__dict__}

    def write(name: str, values: dict, **changes: object) -> None:
        save_file(values, folder / name, metadata={mask_module.HEADER_KEY: json.dumps({**header, **changes})})

    write("newer", tensors, version=2)
    write("sites", tensors, sites=["a"])
    write("values", {name: kept * 3 for name, kept in tensors.items()})
    write("count", tensors, metadata={**header["metadata"], "met": 1})
    write("unknown", tensors, metadata={**header["metadata"], "shoe_size": 1})
    write("types", tensors, metadata={**header["metadata"], "asked": "all"})
    write("missing", tensors, metadata={})
    save_file(tensors, folder / "json", metadata={mask_module.HEADER_KEY: "{"})
    save_file(tensors, folder / "list", metadata={mask_module.HEADER_KEY: "[1]"})
    damaged = ["cut", "empty", "text", "sites", "values", "count", "unknown", "types", "missing", "json", "list"]
    cases = {name: (folder / name, "damaged") for name in damaged}
    return cases | {
        "absent": (folder / "absent", "does not exist"),
        "folder": (folder, "does not exist"),
        "foreign": (folder / "foreign", "not a mask written by relinearize"),
        "newer": (folder / "newer", "version 2"),
    }


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for path, message in broken_files(tmp_path).values():
        with pytest.raises(UserError, match=message) as caught:
            Mask.from_file(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

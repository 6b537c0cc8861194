"""The ONNX model says what the bundle says, in onnxruntime."""

import importlib.machinery
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import BACKBONES, linearized, replaced, small_bundle, some_kept
from torch import nn

from relinearize.backbones.adapter import PixelInput
from relinearize.errors import UserError
from relinearize.methods.replacement import Affine, Cubic, Quadratic, Zero
from relinearize.private_inference.bundle.bundle import run_bundle
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.private_inference.bundle.onnx_model import to_onnx, write_onnx
from relinearize.relu.sites import linearize

onnx = pytest.importorskip("onnx", reason="needs the extra onnx: pip install -e '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx: pip install -e '.[onnx]'")


@pytest.mark.parametrize(("name", "width"), BACKBONES)
def test_onnxruntime_says_what_the_bundle_says(name, width, tmp_path):
    bundle = as_bundle(some_kept(linearized(name, width)), (3, 16, 16))
    assert write_onnx(bundle, tmp_path / "b.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((5, 3, 16, 16), np.float32)
    expected = run_bundle(bundle, images)
    (found,) = session.run(["logits"], {"input": images})
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", [Zero, Affine, Quadratic, Cubic])
def test_replacements_in_onnxruntime(kind, tmp_path):
    bundle = as_bundle(replaced(kind), (3, 16, 16))
    assert write_onnx(bundle, tmp_path / "b.onnx") < 1e-5 and set(bundle.coefficients) == set(bundle.masks)


def test_a_mask_is_a_choice_only_where_it_must_be():
    ops = [node.op_type for node in to_onnx(small_bundle()).graph.node]
    assert ops.count("Where") == 5 and ops.count("Relu") == 6 and ops.count("Identity") == 1


def test_modules_may_have_the_names_of_ours(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalize, self.logits, self.last = nn.BatchNorm2d(3), nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.last(F.relu(self.logits(self.normalize(x).mean((2, 3)))))

    network = PixelInput(linearize(Named(), (3, 8, 8)), torch.zeros(3), torch.ones(3)).eval()
    bundle = as_bundle(network, (3, 8, 8))
    assert bundle.nodes[0].op == "normalize" and bundle.nodes[0].name != "normalize"
    assert write_onnx(bundle, tmp_path / "b.onnx") < 1e-5


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "b.onnx").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_onnx(small_bundle(), tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_text() == "mine"


def test_a_model_that_differs_is_not_written(tmp_path):
    bundle = small_bundle()
    wrong = replace(bundle, reference=replace(bundle.reference, logits=bundle.reference.logits * 1.01))
    with pytest.raises(UserError, match="onnxruntime's logits differ"):
        write_onnx(wrong, tmp_path / "b.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "onnx").mkdir()  # a folder of this name is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match=r"pip install -e '\.\[onnx\]'"):
        write_onnx(small_bundle(), tmp_path / "b.onnx")

"""A bundle is the border between PyTorch's environment and the engine's, whose numpy may be older: both read the same.

Runs in either, where the other one is complete.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy_bundles import all_operations, residual_network, written

from relinearize.private_inference.bundle.bundle import read_bundle, run_bundle

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = {
    "quadratic": lambda: residual_network([1, 0, 0.4, 0.2, 0.5], replacement="quadratic"),
    "all operations": all_operations,
}


def contents(folder):
    """Name -> type, shape and digest of every tensor; the graph; the logits."""
    bundle = read_bundle(folder)
    reference = {name: getattr(bundle.reference, name) for name in ("images", "logits", "labels")}
    groups = {"mask": bundle.masks, "coefficients": bundle.coefficients, "weight": bundle.weights, "ref": reference}
    digests = {
        f"{group} {name}": [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for group, arrays in groups.items()
        for name, array in arrays.items()
    }
    graph = [[node.name, node.op, list(node.inputs), list(node.shape), node.attributes] for node in bundle.nodes]
    logits = run_bundle(bundle, bundle.reference.images)
    return {"digests": digests, "graph": graph, "logits": logits.tolist(), "dtype": str(logits.dtype)}


@pytest.fixture(scope="module")
def other_python():
    for name in (".venv", ".venv-pi"):
        folder = ROOT / name
        if (folder / ".installed").exists() and folder.resolve() != Path(sys.prefix).resolve():
            return folder / "bin/python"
    pytest.skip("only one of .venv and .venv-pi is here")


@pytest.mark.parametrize("name", BUNDLES)
def test_both_environments_read_and_compute_the_same(tmp_path, other_python, name):
    folder = written(BUNDLES[name](), tmp_path / "bundle")
    done = subprocess.run(
        [other_python, __file__, folder], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(json.dumps(contents(folder))), json.loads(done.stdout)
    logits = [np.array(found.pop("logits")) for found in (ours, theirs)]
    assert ours == theirs
    assert np.abs(logits[0] - logits[1]).max() <= 1e-6 * np.abs(logits[0]).max()


if __name__ == "__main__":
    print(json.dumps(contents(Path(sys.argv[1]))))

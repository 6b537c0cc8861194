"""What the tests of both engines do: a bundle through `infer`, and its logits against those of plaintext."""

import numpy as np
from numpy_bundles import written

from relinearize.private_inference.engine import infer as engine_infer
from relinearize.private_inference.engine.options import InferOptions


def inferred(bundle, folder, **settings):
    path = written(bundle, folder / "bundle")
    return engine_infer.infer(InferOptions(path, output=folder / "out", timeout=300, **settings))


def check_logits(record, bundle):
    assert record.fidelity.relative_error < 1e-3
    assert np.abs(np.array(record.logits) - bundle.reference.logits[: len(record.logits)]).max() < 1e-2
    assert record.fidelity.agreement == record.fidelity.private_accuracy == 100


def check_layers(record, bundle):
    """Together they are one steady inference, and each has its counts."""
    for name in ("bytes", "messages"):
        assert sum(getattr(layer, name) for layer in record.layers) == getattr(record.steady, name)
    assert any(abs(sum(layer.seconds for layer in record.layers) - one) < 1e-9 for one in record.steady.seconds)
    assert {layer.name: layer.relus for layer in record.layers if layer.positions} == bundle.kept
    assert record.layers[-1].name == "rest" and all(layer.bytes >= 0 for layer in record.layers)


def check_batch(bundle, folder, batch, protocol):
    """Four images in batches of two or three."""
    record = inferred(bundle, folder, protocol=protocol, batch=batch, n_images=4)
    check_logits(record, bundle)
    check_layers(record, bundle)
    assert len(record.logits) == record.fidelity.images == 4 and len(record.steady.seconds) == 2
    assert record.steady.seconds_per_image == record.steady.median_seconds / batch
    return record


def without_the_clients_weights(bundle, folder, monkeypatch):
    """From now on the client is told a folder that lacks them."""
    without = written(bundle, folder / "without")
    (without / "weights.safetensors").unlink()
    job = engine_infer.Job
    monkeypatch.setattr(
        engine_infer, "Job", lambda bundles, **values: job(bundles=(bundles[0], str(without)), **values)
    )

"""From the engine's log to the record and back."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy_bundles import residual_network, written

from relinearize.errors import UserError
from relinearize.files import file_digest, read_json, write_json
from relinearize.private_inference.bundle.bundle import GRAPH
from relinearize.private_inference.cost.network import NETWORKS
from relinearize.private_inference.cost.presets import protocols
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.infer import fidelity_of, infer, keep_larger, model_of, summary
from relinearize.private_inference.engine.job import KINDS, Cost, Inferred
from relinearize.private_inference.engine.layers import layer_costs
from relinearize.private_inference.engine.options import PROTOCOLS, InferOptions
from relinearize.private_inference.engine.spu.profile import read_profile
from relinearize.private_inference.engine.table import show
from relinearize.records.inference import SHARED, InferenceRecord

HEAD = "2026-01-01 00:00:00.000 [info] [api.cc:printProfilingData:223] - "
LOG = [
    "[Profiling] SPU execution network completed, input processing took 3.7e-05s, execution took 0.37s\n",
    f"{HEAD}pphlo.convolution, executed 9 times, duration 0.077302592s, send bytes 344768 recv bytes 344768, "
    "send actions 18, recv actions 18\n",
    f"{HEAD}pphlo.less, executed 6 times, duration 0.06s, send bytes 57064 recv bytes 57064, send actions 42, recv "
    "actions 42\n",
    f"{HEAD}pphlo.multiply, executed 6 times, duration 1.3e-02s, send bytes 16304 recv bytes 16304, send actions 6, "
    "recv actions 6\n",
    f"{HEAD}pphlo.custom_call: spu.gather, executed 10 times, duration 0.004s, send bytes 0 recv bytes 0, send actions "
    "0, recv actions 0\n",
    f"{HEAD}pphlo.add, executed 13 times, duration 0.001s, send bytes 0 recv bytes 0, send actions 0, recv actions 0\n",
    "[info] Link details: total send bytes 418136, recv bytes 418136, send actions 66, recv actions 66\n",
]


def test_operations_are_counted_by_kind():
    costs = read_profile(LOG)
    assert costs["relu"] == Cost(0.073, 57064 + 16304, 48, 12)
    assert costs["linear"] == Cost(0.077302592, 344768, 18, 9)
    assert costs["gather"] == Cost(0.004, 0, 0, 10)
    assert costs["other"] == Cost(0.001, 0, 0, 13)


def test_comparisons_of_max_pools_are_told_from_those_of_relus():
    """A third of the comparisons, half of their batches; `select` is of pools alone."""
    select = f"{HEAD}pphlo.select, executed 3 times, duration 0.01s, send bytes 4000 recv bytes 0, send actions 3,\n"
    total = "[info] Link details: total send bytes 422136, recv bytes 0, send actions 69,\n"
    costs = read_profile([*LOG[:-1], select, total], (1 / 3, 1 / 2))
    assert costs["pool"] == Cost(pytest.approx(0.03), round(57064 / 3) + 4000, 21 + 3, 3 + 3)
    assert costs["relu"] == Cost(pytest.approx(0.053), 57064 - round(57064 / 3) + 16304, 21 + 6, 3 + 6)


def test_what_a_kind_costs_is_shared_out_among_its_layers():
    bundle = residual_network([1, 0, 0.4, 0.2, 0.5])
    phase = summary([inferred(2)], 2)
    layers, source = layer_costs(bundle, 2, "semi2k", NETWORKS["wan"], inferred(2))
    costs = {layer.name: layer for layer in layers}
    assert source == SHARED and [layer.op for layer in layers].count("masked_relu") == 5
    for name, whole in {"bytes": phase.bytes, "messages": phase.messages, "seconds": phase.median_seconds}.items():
        assert sum(getattr(layer, name) for layer in layers) == pytest.approx(whole)
    relus, sites = bundle.relus, [layer for layer in layers if layer.positions]
    assert [site.bytes for site in sites] == pytest.approx([2200 * site.relus / relus for site in sites], abs=1)
    assert costs["block1.relu1"].messages == 0 and sum(site.messages for site in sites) == 2 * 5
    assert costs["rest"].bytes == 2200, "what no layer takes: additions, and here the pools that the network has not"


@pytest.mark.parametrize("lines", [[], LOG[:-1], LOG[:2] + LOG[3:]])
def test_a_log_that_does_not_add_up_is_no_measurement(lines):
    with pytest.raises(ValueError, match="the whole run"):
        read_profile(lines)


def inferred(seconds, logits=(0.0,) * 5):
    """What server and client say of a batch of two; the client sends ten times as much and takes a second more."""
    cost = {kind: Cost(0.25, 100, 2, 3) for kind in KINDS}
    more = {kind: Cost(0.5, 1000, 5, 3) for kind in cost}
    return Inferred(seconds - 1, 0.5, cost, None), Inferred(seconds, 0.25, more, [list(logits)] * 2)


def test_latency_is_the_clients_and_its_median():
    phase = summary([inferred(second) for second in (9, 2, 3)], batch=2)
    assert phase.seconds == (9, 2, 3) and (phase.median_seconds, phase.seconds_per_image) == (3, 1.5)
    assert (phase.server_bytes, phase.client_bytes, phase.bytes, phase.messages) == (500, 5000, 5500, 25)
    assert (phase.server_cpu_seconds, phase.client_cpu_seconds) == (0.5, 0.25)
    assert asdict(phase.kinds["relu"]) == {"seconds": 0.5, "bytes": 1100, "messages": 5, "calls": 3}


def test_the_model_counts_live_sites_and_layers():
    workload = bundle_workload(residual_network([1, 0, 0.4, 0.2, 0.5]), batch=2)
    slow, fast = summary([inferred(5)], 2), summary([inferred(3)], 2)
    semi2k = model_of(PROTOCOLS["semi2k"], NETWORKS["wan"], workload, slow, fast)
    assert semi2k.sequential_messages == 25, "as counted by the engine"
    assert semi2k.predicted_seconds == pytest.approx(3 + 25 * 0.02 + 5000 / 12.5e6) and semi2k.measured_seconds == 5
    cheetah = model_of(PROTOCOLS["cheetah"], NETWORKS["wan"], workload, slow, fast)
    said = protocols()["cheetah"].online.messages.constants
    assert set(said) == {"live_sites", "pool_steps", "products", "affine_sites", "quadratic_sites"}
    assert cheetah.sequential_messages == round(said["live_sites"] * 4 + said["products"] * 7), "one site is empty"


def test_logits_are_compared_with_plaintext_and_labels():
    bundle = residual_network([1] * 5, images=4)
    logits = bundle.reference.logits.astype(float)
    logits[1, 2] += 0.01
    logits[3] = -logits[3]
    bundle = replace(bundle, reference=replace(bundle.reference, labels=1 - bundle.reference.logits.argmax(1)))
    found = fidelity_of(bundle, logits[:2])
    assert found.images == 2 and found.max_error == pytest.approx(0.01, rel=1e-3) and found.agreement == 100
    assert found.logit_scale == np.abs(bundle.reference.logits[:2]).max()
    assert fidelity_of(bundle, logits).agreement == 75
    logits[3, 0] = np.nan
    assert np.isfinite(fidelity_of(bundle, logits).max_error), "an image of which nothing can be said"
    unlabelled = replace(bundle, reference=replace(bundle.reference, labels=None))
    assert fidelity_of(unlabelled, logits).private_accuracy is None


def test_logits_that_are_no_numbers_are_right_for_nobody():
    """argmax takes the first NaN for the largest."""
    bundle = residual_network([1] * 5, images=4)
    plain = bundle.reference.logits.copy()
    plain[0, 0] = np.nan
    reference = replace(bundle.reference, logits=plain, labels=plain.argmax(1))
    private = plain.astype(float)
    private[1, reference.labels[1]] = np.nan
    found = fidelity_of(replace(bundle, reference=reference), private)
    assert (found.agreement, found.private_accuracy, found.plaintext_accuracy) == (50, 50, 75)


@pytest.fixture
def record():
    bundle = residual_network([1, 0, 0.4, 0.2, 0.5])
    phase = summary([inferred(2)], batch=2)
    return InferenceRecord(
        created="2026-01-01T00:00:00+00:00", bundle=asdict(bundle.about), relus=bundle.kept,
        positions={name: mask.size for name, mask in bundle.masks.items()}, engine="spu", protocol="semi2k",
        security=PROTOCOLS["semi2k"].security, settings={"kn2row": False}, network=asdict(NETWORKS["wan"]),
        compile_seconds=0.5, setup_seconds=1.5, first=phase, steady=phase, loopback=phase,
        model=model_of(PROTOCOLS["semi2k"], NETWORKS["wan"], bundle_workload(bundle, 2), phase, phase), batch=2,
        layers=layer_costs(bundle, 2, "semi2k", NETWORKS["wan"], inferred(2))[0], layers_are=SHARED,
        fidelity=fidelity_of(bundle, bundle.reference.logits), logits=((1.0, 2.0),), versions={}, machine={"load": 0.1},
    )  # fmt: skip


def test_a_record_comes_back(record, tmp_path):
    path = record.write(tmp_path)
    assert InferenceRecord.read(path) == record
    replace(record, loopback=None).write(tmp_path)
    assert InferenceRecord.read(path).loopback is None
    assert [file.name for file in tmp_path.iterdir()] == ["inference.json"]


def test_a_record_of_before_is_of_single_images_without_layers(record, tmp_path):
    path = record.write(tmp_path)
    content = read_json(path)
    for name in ("batch", "layers", "layers_are", "replacement"):
        del content[name]
    for phase in ("first", "steady", "loopback"):
        del content[phase]["seconds_per_image"], content[phase]["kinds"]["pool"]
    write_json(path, content)
    found = InferenceRecord.read(path)
    assert (found.batch, found.replacement, found.steady.seconds_per_image) == (1, "identity", 2)
    assert found.layers == () and found.steady.kinds["pool"].bytes == 0 and found.relus == record.relus


@pytest.mark.parametrize("change", [{"schema_version": 3}, {"format": "x"}, {"more": 1}, {"steady": 1}])
def test_other_files_are_refused(record, tmp_path, change):
    path = record.write(tmp_path)
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError, match=f"{path} is no record of an inference"):
        InferenceRecord.read(path)


def test_a_record_of_more_images_is_not_replaced(record, tmp_path):
    bundle = written(residual_network([1, 0, 0.4, 0.2, 0.5], images=4), tmp_path / "bundle")
    about = record.bundle | {"graph_sha256": file_digest(bundle / GRAPH)}
    larger = replace(record, fidelity=replace(record.fidelity, images=20), bundle=about)
    path = larger.write(tmp_path / "out")
    with pytest.raises(UserError, match=r"has a record of 20 images, .* give n_images=20 or more, or another output=$"):
        infer(InferOptions(bundle, n_images=4, output=tmp_path / "out"))
    assert InferenceRecord.read(path) == larger
    keep_larger(tmp_path / "out", bundle, 20)
    record.write(tmp_path / "stale")
    keep_larger(tmp_path / "stale", bundle, 1)  # of a bundle that lay there before
    path.write_text("{}")
    keep_larger(tmp_path / "out", bundle, 4)


def test_the_table_says_what_matters(record, capsys):
    from rich.console import Console

    show(replace(record, steady=replace(record.steady, seconds=(2, 2))), Console(width=120), layers=True)
    printed = capsys.readouterr().out
    assert "costs of a batch of 2 images, ReLUs and comparisons of one" in " ".join(printed.split())
    kept = sum(record.relus.values())
    for text in (
        "wan (40 ms RTT, 100 Mbit/s)",
        f"{kept:,} of ",
        "at 4 of 5 sites",
        "measured 2.00 s",
        SHARED,
        "block1.relu1      masked_relu           0 of 512",
        "the server deals",
        "batch=2: 3 images in 2 inferences (the last filled up with 1 that are not counted), 2.00 s each, "
        "1.000 s per image, 1.00 images per second",
    ):
        assert text in printed
    assert "private accuracy 100.00 %" in printed

"""Real two-party computation: two processes, SPU. `make test-pi` runs these in the engine's environment."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("spu", reason="SecretFlow SPU is not here; `make test-pi` runs this in the engine's environment")

from numpy_bundles import Builder, all_operations, pooled_network, residual_network, written
from processes import gone
from sessions import (
    FAULTS,
    by_command,
    check_another_bundle,
    check_batch,
    check_closed_to_strangers,
    check_killed,
    check_layers,
    check_logits,
    inferred,
    without_the_clients_weights,
)

from relinearize.errors import UserError
from relinearize.private_inference.cost.presets import protocols
from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.infer import alone_in
from relinearize.private_inference.engine.options import InferOptions
from relinearize.records.inference import InferenceRecord

KEPT = [1, 0, 0.4, 0.2, 0.5]  # of the five sites: all, none, some


@pytest.fixture(scope="module")
def bundle():
    return residual_network(KEPT, images=4)


@pytest.fixture(scope="module")
def semi2k(bundle, tmp_path_factory):
    """On a network of 100 ms, so that messages outweigh whatever else the machine does."""
    return inferred(bundle, tmp_path_factory.mktemp("semi2k"), protocol="semi2k", n_images=3, network="{rtt_ms:100}")


def test_semi2k_says_what_plaintext_says(semi2k, bundle):
    check_logits(semi2k, bundle)
    assert InferenceRecord.read(Path(semi2k.bundle["path"]).parent / "out" / "inference.json") == semi2k


def test_weights_and_pixels_are_rounded_and_not_cut(semi2k):
    assert semi2k.fidelity.relative_error < 2.5e-5, "4e-5 where each is cut toward zero"


def test_the_mean_over_a_large_map(tmp_path):
    """One over 3,136 pixels in 18 bits is off by half a percent, and by 0.7 % if it is cut."""
    build = Builder((3, 56, 56))
    build.conv("conv", 4, kernel=1)  # else the client computes the mean of its image alone
    build.add("pool", "global_avg_pool")
    build.add("flatten", "flatten")
    build.linear("linear", 5)
    bundle = build.bundle({})
    record = inferred(bundle, tmp_path, protocol="semi2k", n_images=1)
    assert record.fidelity.relative_error < 1e-4
    costs, features = protocols()["semi2k"].online, bundle_workload(bundle).features()
    assert record.steady.messages == costs.messages.of(features) == 2 * 2 + 2 + 1, "layers, a mean, the logits"
    assert record.steady.kinds["linear"].bytes == pytest.approx(costs.bytes.of(features), rel=1e-3)


def test_semi2k_sends_144_bytes_for_each_kept_relu(semi2k, bundle):
    assert semi2k.steady.kinds["relu"].bytes == pytest.approx(144 * bundle.relus, rel=0.01)
    assert semi2k.first.bytes == semi2k.steady.bytes == semi2k.loopback.bytes


def test_sites_without_relus_send_nothing(semi2k):
    assert semi2k.steady.kinds["relu"].messages == 8 * 4, "of five sites one is empty"
    assert semi2k.steady.kinds["gather"].bytes == 0 and semi2k.steady.kinds["gather"].calls == 2 * 3
    phases = (semi2k.first, semi2k.steady, semi2k.loopback)
    assert all(phase.bytes == sum(kind.bytes for kind in phase.kinds.values()) for phase in phases)


def test_the_messages_that_are_counted_wait_for_each_other(semi2k):
    """Each takes half a round trip; were some sent together, it would take less. A busy machine only adds to it."""
    assert min(semi2k.steady.seconds) > 0.98 * semi2k.model.sequential_messages * 0.05
    assert min(semi2k.loopback.seconds) < min(semi2k.steady.seconds)
    assert len(semi2k.steady.seconds) == 3 and len(semi2k.loopback.seconds) == 3


def test_without_relus_nothing_is_compared_and_truncation_can_be_free(tmp_path):
    bundle = residual_network([0] * 5)
    record = inferred(bundle, tmp_path, protocol="semi2k", n_images=1, local_truncation=True, kn2row=True)
    check_logits(record, bundle)
    relu, linear = (record.steady.kinds[kind] for kind in ("relu", "linear"))
    assert (relu.bytes, relu.messages, relu.calls) == (0, 0, 0)
    assert linear.messages == 7, "one for each layer, none for rounding"
    assert record.loopback is None and record.model.predicted_seconds == record.model.measured_seconds
    assert record.settings["local_truncation"] and record.settings["kn2row"]


def test_every_operation(tmp_path):
    bundle = all_operations()
    record = inferred(bundle, tmp_path, protocol="semi2k", n_images=1)
    check_logits(record, bundle)
    assert record.steady.kinds["relu"].bytes == pytest.approx(144 * bundle.relus, rel=0.01), "affines are no ReLUs"
    pools = sum(node.op == "avg_pool" for node in bundle.nodes)  # a message each
    costs, workload = protocols()["semi2k"].online.messages, bundle_workload(bundle)
    messages = costs.constants["products"] * workload.linear.products
    assert record.steady.kinds["linear"].messages == messages + pools, "a product for each group of a convolution"
    assert record.steady.messages == costs.of(workload.features()), "each pool's among them"


def test_cheetah_says_what_plaintext_says(bundle, tmp_path):
    record = inferred(bundle, tmp_path, protocol="cheetah", n_images=1)
    check_logits(record, bundle)
    assert record.steady.kinds["relu"].bytes == pytest.approx(98.5 * bundle.relus, rel=0.1)
    assert record.first.bytes > 3 * record.steady.bytes, "keys and base transfers are sent once"


@pytest.mark.parametrize(
    ("protocol", "each", "spread", "messages"), [("semi2k", 144, 0, 8), ("cheetah", 100, 0.01, 20)]
)
def test_max_pools_are_counted_as_they_are_compared(tmp_path, protocol, each, spread, messages):
    """Odd maps, padding, overlapping windows, two images; bytes for each comparison, messages for each round."""
    bundle = pooled_network()
    record = inferred(bundle, tmp_path, protocol=protocol, batch=2, n_images=2)
    check_logits(record, bundle)
    pool, rounds = record.steady.kinds["pool"], sum(pool.rounds for pool in bundle.pools.values())
    assert (pool.bytes, pool.messages) == (
        pytest.approx(2 * each * bundle.pool_comparisons, rel=spread),
        messages * rounds,
    )
    assert record.pool_comparisons == bundle.pool_comparisons
    check_layers(record, bundle)


@pytest.mark.parametrize("protocol", ["semi2k", "cheetah"])
def test_a_batch_shares_the_messages(bundle, tmp_path, protocol):
    batch = 3  # and a last one that is short
    record = check_batch(bundle, tmp_path, batch, protocol)
    costs = protocols()[protocol].online
    assert record.steady.bytes == pytest.approx(costs.bytes.of(bundle_workload(bundle, batch).features()), rel=0.01)
    assert record.model.sequential_messages == round(costs.messages.of(bundle_workload(bundle).features()))
    assert record.steady.kinds["relu"].messages == (8 if protocol == "semi2k" else 20) * 4, "of five sites one is empty"


def test_the_client_has_no_weights(bundle, tmp_path, monkeypatch):
    without_the_clients_weights(bundle, tmp_path, monkeypatch)
    check_logits(inferred(bundle, tmp_path, protocol="semi2k", n_images=1), bundle)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_with_another_bundle_is_one_line(bundle, tmp_path, monkeypatch, fault):
    check_another_bundle(bundle, tmp_path, monkeypatch, fault, "semi2k")


def test_no_port_is_opened_and_no_other_user_gets_in(bundle, tmp_path, monkeypatch):
    """Nor to the sockets of the network that is emulated."""
    check_closed_to_strangers(bundle, tmp_path, monkeypatch, "{rtt_ms:1}", "semi2k")


def test_a_party_killed_in_the_middle_is_named_and_the_other_ended(bundle, tmp_path, monkeypatch):
    check_killed(bundle, tmp_path, monkeypatch, 0, "server", "semi2k")


def test_both_parties_end_where_the_command_is_killed_in_the_middle(bundle, tmp_path):
    """By themselves, from within the engine's own code; the other signals: test_two_parties.py."""
    path = written(bundle, tmp_path / "bundle")
    request = InferOptions(path, protocol="semi2k", n_images=1, network="{rtt_ms:400}")
    command = [sys.executable, "-m", "relinearize.private_inference.engine", request.to_json()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with process.stderr:
        for line in process.stderr:
            if line.startswith("first inference"):
                break
        parties = children(process.pid)
        time.sleep(1)  # the run is under way
        process.kill()
        process.wait()
    assert len(parties) == 2
    assert gone(parties), "a party was left behind"


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_folder_in_use_is_left_alone(bundle, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "server.log").write_text("of the other\n")
    with alone_in(out), pytest.raises(UserError, match=f"output={out} is in use by process {os.getpid()} on "):
        inferred(bundle, tmp_path, protocol="semi2k", n_images=1)
    assert (out / "server.log").read_text() == "of the other\n" and not (out / "inference.json").exists()


def test_more_images_than_there_are(bundle, tmp_path):
    with pytest.raises(UserError, match="n_images=9: the bundle has 4 reference images"):
        inferred(bundle, tmp_path, n_images=9)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_its_table(bundle, tmp_path):
    done = by_command(bundle, tmp_path, protocol="semi2k", n_images=1)
    assert "ReLUs kept at 4 of 5 sites, 144.0 bytes each" in done.stdout
    assert done.stdout.rstrip().endswith("bundle-infer/semi2k-loopback/inference.json")
    assert "compiling" in done.stderr and "image 1 of 1" in done.stderr

"""Real two-party computation with CrypTen: two processes. `make test-crypten` runs these."""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

if importlib.util.find_spec("crypten") is None:
    pytest.skip("CrypTen is not here; `make test-crypten` runs this", allow_module_level=True)

from numpy_bundles import all_operations, pooled_network, residual_network
from processes import LIMIT
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

from relinearize.private_inference.cost.workload import bundle_workload
from relinearize.private_inference.engine.crypten.link import connected
from relinearize.private_inference.engine.job import Job
from relinearize.private_inference.engine.sockets import dialled, socket_folder
from relinearize.private_inference.engine.table import lines

KEPT = [1, 0, 0.4, 0.2, 0.5]  # of the five sites: all, none, some


@pytest.fixture(scope="module")
def bundle():
    return residual_network(KEPT, images=4)


@pytest.fixture(scope="module")
def record(bundle, tmp_path_factory):
    """On a network of 100 ms, so that messages outweigh whatever else the machine does."""
    return inferred(bundle, tmp_path_factory.mktemp("tfp"), engine="crypten", n_images=3, network="{rtt_ms:100}")


def test_it_says_what_plaintext_says(record, bundle):
    check_logits(record, bundle)
    assert (record.engine, record.protocol, record.settings["fraction_bits"]) == ("crypten", "tfp", 16)
    assert set(record.versions) == {"relinearize", "crypten", "torch", "numpy"}


def test_weights_and_pixels_are_rounded_and_not_cut(record):
    assert record.fidelity.relative_error < 1e-4, "2e-4 where each is cut toward zero"


def test_it_sends_464_bytes_for_each_kept_relu(record, bundle):
    assert record.steady.kinds["relu"].bytes == 464 * bundle.relus
    assert record.first.bytes == record.steady.bytes == record.loopback.bytes


def test_sites_without_relus_send_nothing(record):
    assert record.steady.kinds["relu"].messages == 9 * 4, "of five sites one is empty"
    assert record.steady.kinds["gather"].bytes == 0 and record.steady.kinds["gather"].calls == 2 * 3
    assert record.steady.kinds["linear"].messages == 7, "one for each layer, none for rounding and means"
    assert record.steady.kinds["other"].messages == 1, "the server's half of the logits"


@pytest.mark.slow
def test_sites_of_polynomials_alone_gather_nothing(tmp_path):
    bundle = residual_network([0, 0, 0, 0, 0.5], images=2, replacement="quadratic")
    record = inferred(bundle, tmp_path, engine="crypten", n_images=1)
    check_logits(record, bundle)
    assert record.steady.kinds["gather"].calls == 2 * 2, "of the last site: its ReLUs and its quadratics"


def test_the_messages_that_are_counted_wait_for_each_other(record):
    """Each takes half a round trip; were some sent together, it would take less. A busy machine only adds to it."""
    assert record.model.sequential_messages == record.steady.messages == 9 * 4 + 7 + 1
    assert min(record.steady.seconds) > 0.98 * record.model.sequential_messages * 0.05
    assert min(record.loopback.seconds) < min(record.steady.seconds)


def test_a_batch_shares_the_messages_and_the_opened_weights(bundle, tmp_path):
    batch = 3  # and a last one that is short
    record = check_batch(bundle, tmp_path, batch, "tfp")
    work = bundle_workload(bundle).linear
    assert record.steady.kinds["relu"].bytes == 464 * batch * bundle.relus
    assert record.steady.kinds["linear"].bytes == 16 * (batch * work.inputs + work.weights)
    assert record.steady.kinds["other"].bytes == 8 * batch * bundle.classes, "the server's half of the logits"
    assert record.model.sequential_messages == 9 * 4 + 7 + 1


def test_every_operation_and_a_client_without_weights(tmp_path, monkeypatch):
    bundle = all_operations()
    without_the_clients_weights(bundle, tmp_path, monkeypatch)
    record = inferred(bundle, tmp_path, protocol="tfp", n_images=1)
    check_logits(record, bundle)
    assert record.steady.kinds["relu"].bytes == 464 * bundle.relus


def test_max_pools_are_counted_as_they_are_compared(tmp_path):
    """Odd maps, padding, overlapping windows, two images; 464 bytes for each comparison, 9 messages for each round."""
    bundle = pooled_network()
    record = inferred(bundle, tmp_path, protocol="tfp", batch=2, n_images=2)
    check_logits(record, bundle)
    pool, rounds = record.steady.kinds["pool"], sum(pool.rounds for pool in bundle.pools.values())
    assert (pool.bytes, pool.messages) == (2 * 464 * bundle.pool_comparisons, 9 * rounds)
    assert record.pool_comparisons == bundle.pool_comparisons
    check_layers(record, bundle)
    costs = {layer.name: (layer.bytes, layer.messages) for layer in record.layers}
    assert costs["relu1"] == (2 * 464 * bundle.kept["relu1"], 9) and costs["relu2"] == (0, 0)
    for name, found in bundle.pools.items():
        assert costs[name] == (2 * 464 * found.comparisons, 9 * found.rounds)


@pytest.mark.parametrize(
    ("replacement", "product"),
    [pytest.param("zero", 0, marks=pytest.mark.slow), ("cubic", 64)],
)
def test_replacements_are_computed_by_as_many_products_as_they_have(tmp_path, replacement, product):
    bundle = residual_network(KEPT, replacement=replacement)
    record = inferred(bundle, tmp_path, protocol="tfp", n_images=1)
    check_logits(record, bundle)
    removed = sum(int((~mask).sum()) for mask in bundle.masks.values())
    assert record.steady.kinds["relu"].bytes == 464 * bundle.relus + product * removed
    assert record.steady.kinds["relu"].messages == 9 * 4 + 4 * (product // 32), "of five sites one removes nothing"
    said = lines(record)
    assert record.replacement == replacement and said[1] == f"at the other {removed:,} positions: {replacement}"
    assert ("bytes each" in said[0]) == (replacement == "zero")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_with_another_bundle_is_one_line(bundle, tmp_path, monkeypatch, fault):
    check_another_bundle(bundle, tmp_path, monkeypatch, fault, "tfp")


def test_no_port_is_opened_and_no_other_user_gets_in(bundle, tmp_path, monkeypatch):
    check_closed_to_strangers(bundle, tmp_path, monkeypatch, "loopback", "tfp")


def test_a_party_killed_in_the_middle_is_named_and_the_other_ended(bundle, tmp_path, monkeypatch):
    check_killed(bundle, tmp_path, monkeypatch, 1, "client", "tfp")


def test_the_command_prints_its_table(bundle, tmp_path):
    done = by_command(bundle, tmp_path, engine="crypten", n_images=1)
    assert "ReLUs kept at 4 of 5 sites, 464.0 bytes each" in done.stdout
    assert done.stdout.rstrip().endswith("bundle-infer/tfp-loopback/inference.json")


def test_strangers_are_turned_away_and_the_client_gets_in(tmp_path):
    """Those that may open the socket at all."""
    with ThreadPoolExecutor() as pool, socket_folder() as folder:
        path = str(folder / "server")
        job = Job(("", ""), "", "crypten", "tfp", 16, True, LIMIT, ((path, ""), (path, "")), {})
        job.write(tmp_path)
        assert Job.read(tmp_path).token == job.token and (tmp_path / "job.json").stat().st_mode & 0o077 == 0
        server = pool.submit(connected, job, 0)
        for sent in (b"x" * len(job.token), b""):
            while True:
                try:
                    stranger = dialled(path, LIMIT)
                    break
                except OSError:
                    time.sleep(0.02)
            with stranger:
                stranger.sendall(sent)
                if sent:
                    assert stranger.recv(1) == b"", "turned away, unanswered"
        client = pool.submit(connected, job, 1)
        with server.result() as ours, client.result() as theirs:
            theirs.sendall(b"hello")
            assert ours.recv(5) == b"hello"

"""scripts/fit_cost.py: constants are found again, nothing else in presets.json changes, and the verdict is honest.

The engine is not needed: measurements are made from known constants.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from relinearize.private_inference.bundle import read_bundle
from relinearize.private_inference.cost.network import read_network
from relinearize.private_inference.cost.workload import LinearWork, Workload, bundle_workload

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    import fit_cost

    yield fit_cost
    sys.path.remove(str(ROOT / "scripts"))
    for name in [name for name in sys.modules if name == "fit_cost" or name.split(".")[0] == "costs"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def content(script):
    return json.loads(script.PRESETS.read_text())


WORKS = [
    replace(LinearWork.of_products(inputs, rows, inner, columns), layers=inner % 5, products=inner % 5, means=rows % 3)
    for inputs, rows, inner, columns in (
        (3072, 1024, 27, 16), (16384, 1024, 144, 16), (4096, 64, 144, 16), (8192, 256, 288, 32), (64, 1, 64, 10),
        (16384, 256, 16, 32), (2048, 64, 576, 64),
    )
]  # fmt: skip

LARGE = {
    "relus": 1e4, "gathered": 1e4, "outputs": 1e4, "windows": 1e3, "patches": 1e5, "weights": 1e4,
    "inputs": 1e4, "parameters": 1e4, "multiplications": 1e7, "multiplied_ciphertexts": 100, "result_ciphertexts": 100,
    "packed_ciphertexts": 100,
}  # fmt: skip


def made(script, protocols, factor=1.0):
    """What an engine would measure whose constants are those of `protocols`; every other network is for testing."""
    from costs.measuring import Measured
    from costs.networks import Subject

    found = []
    for preset in script.SETTINGS:
        phase = protocols[preset].online
        for index, work in enumerate([*WORKS, *WORKS]):
            relus, live = 1000 * (index % 3) * (1 + index), (index % 3 > 0) * (1 + index)
            features = Workload(relus, live, relus * (index % 2), work).features()
            tested = index % 4 == 3
            found.append(
                Measured(
                    subject=Subject(f"net {index}", "resnet8", 16, 8, 0.5, tested=tested),
                    preset=preset,
                    features=features,
                    seconds=factor * phase.seconds.of(features),
                    shares=shares(phase.seconds, features),
                    bytes=round(factor * phase.bytes.of(features)),
                    busier=0.6,
                    messages=phase.messages.of(features),
                    wan_seconds=1.0 if tested else None,
                    records=(),
                )
            )
    return found


def shares(terms, features):
    from costs.fitting import KIND_OF, KINDS

    whole = terms.of(features)
    return {
        kind: terms.of(
            {count: value if KIND_OF.get(count, "linear") == kind else 0 for count, value in features.items()}
        )
        / whole
        for kind in KINDS
    }


def test_constants_are_found_again_and_only_these_change(script, content):
    from costs.fitting import FITTED, as_text, fitted, with_constants

    true = json.loads(json.dumps(content))
    for name, quantities in FITTED.items():
        for quantity, counts in quantities.items():
            values = {
                count: {"value": 1e6 * (1 + index) / LARGE.get(count, 10), "source": ""}
                for index, count in enumerate(counts)
            }
            true["protocols"][name]["online"][quantity] = values
    measurements = made(script, script.protocols_of(true))
    changed = with_constants(content, fitted(measurements), dict.fromkeys(FITTED, "measured by a test"))
    for name, quantities in FITTED.items():
        online = changed["protocols"][name]["online"]
        for quantity, counts in quantities.items():
            for count in counts:
                wanted = true["protocols"][name]["online"][quantity][count]["value"]
                assert online[quantity][count]["value"] == pytest.approx(wanted, rel=0.01), (name, quantity, count)
                assert online[quantity][count]["source"].startswith("measured by a test")
        assert online["bytes"]["pool_comparisons"]["value"] == online["bytes"]["relus"]["value"]
        assert online["messages"]["pool_steps"]["value"] == online["messages"]["live_sites"]["value"]
        share = online["bytes"]["quadratic"]["value"] / online["bytes"]["relus"]["value"]
        wanted = share * online["seconds"]["relus"]["value"]
        assert online["seconds"]["quadratic"]["value"] == pytest.approx(wanted, rel=0.05)
        assert online["busier_direction"]["value"] == 0.6
    seconds = changed["protocols"]["cheetah"]["online"]["seconds"]
    parts = sum(seconds[name]["value"] for name in ("multiplied_ciphertexts", "result_ciphertexts"))
    assert seconds["quadratic_ciphertexts"]["value"] == pytest.approx(parts, rel=0.05)
    for name in set(content["protocols"]) - set(FITTED):
        assert changed["protocols"][name] == content["protocols"][name]
    assert json.loads(as_text(changed)) == changed


def test_no_constant_is_below_zero(script):
    """More ReLUs, less time: a machine that was busy at the wrong moment."""
    from costs.fitting import constants

    rows = [SimpleNamespace(features={"relus": relus, "layers": 2}, bytes=9.0 - relus) for relus in range(5)]
    found = constants(("relus", "layers"), rows, "bytes")
    assert found["relus"] == 0 and 2.5 < found["layers"] < 4.5


def test_what_is_cheap_keeps_its_own_constant(script):
    """Gathers of 1 ms beside layers that take 1 s, by a tenth more or less: the clock of each kind tells."""
    from costs.fitting import constants

    rows = []
    for index, noise in enumerate((1.1, 0.9, 0.95, 1.05)):
        features = {"gathered": 1000 * index, "layers": 1}
        seconds = noise + 1e-3 * index
        kinds = {"relu": 0.0, "gather": 1e-3 * index / seconds, "linear": noise / seconds}
        rows.append(SimpleNamespace(features=features, seconds=seconds, shares=kinds))
    assert constants(("gathered", "layers"), rows, "seconds")["gathered"] == pytest.approx(1e-6, rel=0.5)
    without = [SimpleNamespace(features=one.features, bytes=one.seconds) for one in rows]
    assert constants(("gathered", "layers"), without, "bytes")["gathered"] == 0


def test_the_file_is_written_as_it_is_committed(script, content):
    from costs.fitting import as_text

    assert as_text(content) + "\n" == script.PRESETS.read_text(), "a fit changes the lines of its constants alone"


def test_what_is_fitted_is_in_the_file(script, content):
    from costs.fitting import FITTED

    assert set(FITTED) == set(script.SETTINGS)
    for name, quantities in FITTED.items():
        for quantity, counts in quantities.items():
            constants = content["protocols"][name]["online"][quantity]
            present = {
                count
                for count, one in constants.items()
                if not one["source"].startswith(("assumed", "measured (tests"))
            }
            assert present == set(counts), (name, quantity)


def test_the_verdict(script):
    protocols = script.protocols_of(json.loads(script.PRESETS.read_text()))
    for factor, good in ((1.0, True), (1.3, False)):
        comparisons = script.compared(made(script, protocols, factor), protocols)
        judged = [one for one in comparisons if one.name != "wan s"]
        assert {one.name for one in comparisons} == {"MB", "loopback s", "messages", "wan s"}
        found, said = script.verdict(judged)
        assert found is good
        assert ("beyond: cheetah, net 3, MB" in said) is not good, said
        assert "net 2," not in said, "a fitted network is no test"
    rows = [one for one in comparisons if (one.measured.preset, one.measured.subject.name) == ("cheetah", "net 3")]
    off = next(one.off for one in rows if one.name == "MB")
    assert off == pytest.approx(1 / 1.3 - 1, rel=0.01)


def test_messages_are_what_the_delay_adds(script):
    from costs.measuring import waited_for

    def record(rtt, *seconds):
        network = read_network(f"{{rtt_ms:{rtt}}}")
        return SimpleNamespace(network=vars(network), steady=SimpleNamespace(seconds=seconds))

    assert waited_for(record(20, 3.0, 9.0), record(80, 9.9, 9.0)) == pytest.approx(6 / 0.03)


def test_a_busy_machine_hardly_counts(script):
    from costs.measuring import undisturbed

    phase = SimpleNamespace(seconds=(4.0, 2.5, 3.0), server_cpu_seconds=1.5, client_cpu_seconds=0.25)
    assert undisturbed(phase) == pytest.approx(1.8)
    phase.server_cpu_seconds = 9.0
    assert undisturbed(phase) == 2.5


def test_networks_have_the_masks_they_say(script, tmp_path):
    assert {one.name for one in script.SUBJECTS} >= set(script.QUICK)
    quick = [one for one in script.SUBJECTS if one.name in script.QUICK]
    assert {one.tested for one in quick} == {True, False} and any(one.messages for one in quick)
    by_name = {one.name: one for one in script.SUBJECTS}
    for name, relus, live in (("digits, 10 %", 461, 7), ("digits, none", 0, 0), ("digits, half the sites", None, 4)):
        folder = tmp_path / name
        by_name[name].export(folder)
        workload = bundle_workload(read_bundle(folder))
        assert workload.live_sites == live and abs(workload.relus - (relus or workload.relus)) <= 3
        assert workload.linear.layers == 10


def test_quick_networks_make_no_constants(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["--quick"])
    assert "give --check or --dry" in capsys.readouterr().err
    assert script.parse(["--quick", "--check"]).check


def test_without_the_engine_one_line(script, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"fit_cost: error: infer needs SecretFlow SPU .* none at /no/python"):
        script.main(["--check", "--python", "/no/python", "--folder", str(tmp_path)])


def test_what_no_fit_can_tell_apart_is_what_is_committed(script, content):
    from costs.fitting import LOGITS

    for protocol, messages in LOGITS.items():
        assert content["protocols"][protocol]["online"]["messages"]["inference"]["value"] == messages

"""scripts/infer_resnet18.py: the networks keep what their names say, and the table says what the records do.

The engine is not needed: its records are made up from the bundles.
"""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from relinearize.private_inference.bundle import read_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    import infer_resnet18

    yield infer_resnet18
    sys.path.remove(str(ROOT / "scripts"))
    for name in [name for name in sys.modules if name == "infer_resnet18" or name.split(".")[0] == "costs"]:
        del sys.modules[name]


def made_up(bundle: Path) -> SimpleNamespace:
    masks = read_bundle(bundle).masks
    relus = {name: int(mask.sum()) for name, mask in masks.items()}
    phase = SimpleNamespace(
        median_seconds=3.0, bytes=5_000_000, server_cpu_seconds=1.5, client_cpu_seconds=1.0,
        kinds={"relu": SimpleNamespace(bytes=100 * sum(relus.values()))},
    )  # fmt: skip
    return SimpleNamespace(
        first=SimpleNamespace(median_seconds=7.0), steady=phase, loopback=SimpleNamespace(median_seconds=2.0),
        model=SimpleNamespace(sequential_messages=178, predicted_seconds=3.2),
        fidelity=SimpleNamespace(relative_error=2e-4, agreement=100.0, images=3),
        machine={"load_before": 0.5}, live_sites=sum(kept > 0 for kept in relus.values()),
        positions={name: mask.size for name, mask in masks.items()},
    )  # fmt: skip


@pytest.mark.slow
def test_the_table_has_every_network_under_both_protocols(script, tmp_path, monkeypatch, capsys):
    asked = []

    class Bench:
        def __init__(self, folder, python, presets):
            assert presets == ("cheetah", "semi2k")

        def record(self, bundle, protocol, network, images):
            asked.append((protocol, network, images))
            return made_up(bundle)

    monkeypatch.setattr(script, "Bench", Bench)
    assert script.main(["--folder", str(tmp_path), "--width", "2"]) == 0
    assert asked == [(protocol, "wan", 1) for protocol in ("cheetah", "semi2k") for _ in range(6)]
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    total = 557_056 // 32  # of width 64 in the senet convention, over 32
    assert [row["ReLUs"] for row in rows[:5]] == [f"{round(share * total):,}" for share in (1, 0.5, 0.25, 0.1, 0.05)]
    assert [row["live sites"] for row in rows[:6]] == ["17"] * 5 + ["5"]
    assert rows[5]["of all, %"] == "8.8" and rows[0]["bytes per ReLU"] == "100.0"
    assert (rows[0]["steady s, wan"], rows[0]["CPU s, both"], rows[0]["same class"]) == ("3.0", "2.5", "100 % of 3")
    text = (tmp_path / "table.md").read_text()
    assert text.count("\n") == 14 and text in capsys.readouterr().out

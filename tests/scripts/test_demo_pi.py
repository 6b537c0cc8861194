"""scripts/demo_pi.py without its engine: what it finds again, what it measures anew, and the table at its end."""

import hashlib
import io
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from relinearize.errors import UserError
from relinearize.private_inference.bundle import export
from relinearize.private_inference.cost.network import NETWORKS
from relinearize.records.inference import Fidelity, InferenceRecord, KindCost, Model, Phase

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo():
    sys.path.insert(0, str(ROOT / "scripts"))
    import demo_pi

    yield demo_pi
    sys.path.remove(str(ROOT / "scripts"))
    del sys.modules["demo_pi"]


@pytest.fixture
def run(demo, tmp_path):
    """(folder, record) of a run whose bundle was inferred as the demo asks."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    bundle = export(network.eval(), tmp_path / "bundle", input_size=(1, 8, 8), images=torch.rand(4, 1, 8, 8))
    graph = hashlib.sha256((tmp_path / "bundle" / "graph.json").read_bytes()).hexdigest()
    for protocol, link, _ in demo.ASKED:
        path = demo.record_file(tmp_path, protocol, link)
        path.parent.mkdir(parents=True)
        inference(bundle, graph, protocol, link).write(path.parent)
    return tmp_path, SimpleNamespace(budget=SimpleNamespace(met=144), accuracy=SimpleNamespace(test=97.5))


def inference(bundle, graph, protocol, link):
    kinds = {"relu": KindCost(0.1, 20_000, 8, 2)}
    phase = Phase((2.5,), 2.5, 2.5, 0.1, 0.1, 600_000, 634_000, 20, kinds)
    return InferenceRecord(
        created="2026-01-01T00:00:00+00:00", bundle=asdict(bundle.about) | {"graph_sha256": graph}, relus=bundle.kept,
        positions=bundle.kept, engine="spu", protocol=protocol, security="", settings={},
        network=asdict(NETWORKS[link]), compile_seconds=0.1, setup_seconds=0.1, first=phase, steady=phase,
        loopback=phase, model=Model(0.1, 20, 600_000, 2.4, 2.5), fidelity=Fidelity(5, 1e-3, 10.0, 100.0, 80.0, 80.0),
        logits=(), versions={}, machine={"load_before": 0.5},
    )  # fmt: skip


def test_the_table_has_measured_and_predicted(demo, run):
    text = io.StringIO()
    Console(file=text, width=140).print(demo.table([run]))
    rows = [line for line in text.getvalue().splitlines() if "cheetah, loopback" in line or "semi2k, wan" in line]
    assert len(rows) == 2 and "144" in rows[0] and "97.50" in rows[0]
    for row in rows:
        assert "4 of 5" in row and "1.23" in row and "2.50" in row


def test_another_bundle_is_measured_anew(demo, run):
    folder, _ = run
    assert demo.measured(folder, "semi2k", "wan") and not demo.measured(folder, "semi2k", "lan")
    graph = folder / "bundle" / "graph.json"
    graph.write_text(graph.read_text() + " ")
    assert not demo.measured(folder, "semi2k", "wan")


def test_the_demos_runs_are_found_by_method_and_budget(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo.RUNS.mkdir(parents=True)
    assert demo.demo_runs() == [], "as an interruption leaves it"

    def record(method, met):
        return SimpleNamespace(method=SimpleNamespace(name=method), budget=SimpleNamespace(met=met, total=4608))

    there = [("snl", 92), ("random", 461), ("snl", 2304), ("snl", 230), ("snl", 461)]
    found = [(Path(f"{index}/record.json"), record(*one)) for index, one in enumerate(there)]
    monkeypatch.setattr(demo.Record, "find", lambda folders: found)
    assert [str(folder) for folder, _ in demo.demo_runs()] == ["2", "4", "0"]


def test_nothing_is_trained_without_the_engine(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "relinearize", lambda *arguments: pytest.fail(str(arguments)))
    assert demo.demo_runs() == []
    with pytest.raises(UserError, match="none at /no/python; `make pi` makes it"):
        demo.main(["--python", "/no/python"])
    with pytest.raises(SystemExit):
        demo.main(["images=3"])
    assert "unrecognized arguments: images=3" in capsys.readouterr().err

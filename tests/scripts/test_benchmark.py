"""Every benchmark runs to its end, at tiny sizes; the code for a CUDA card is run on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

from relinearize.convolution import resolve_convolutions

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import benchmark

    yield benchmark
    for name in [name for name in sys.modules if name == "benchmark" or name.split(".")[0] == "bench"]:
        del sys.modules[name]


# Below 8 channels the 1x1 strided convolution of torch 2.15 (AVX2, channels_last) writes beyond its memory.
TINY = {"width": 8, "batch": 16, "rounds": 1, "quick": True}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["senet", "robust", "attack", "corruptions", "lightning", "loader", "score"])
def test_benchmarks_yield_positive_numbers(benchmark, monkeypatch, name):
    """Those that no test below runs."""
    senet = benchmark.BENCHMARKS["senet"]
    peak_memory = senet.peak_memory  # in a process of its own, which costs seconds: once
    variants = {"plain": peak_memory}
    monkeypatch.setattr(
        senet, "peak_memory", lambda variant, *given: variants.get(variant, senet.peak_of_steps)(variant, *given)
    )
    monkeypatch.setattr(benchmark.BENCHMARKS["attack"], "STEPS", 5)
    further = {"precision": "32"} if name == "robust" else {}  # in bf16: that of the card, below
    rows = list(benchmark.BENCHMARKS[name].measure(benchmark.Settings(**TINY, **further)))
    assert rows and all(row.benchmark == name for row in rows)
    if name not in ("lightning", "senet"):  # an overhead may be below zero by chance
        assert all(row.value > 0 for row in rows if "student" not in row.measure)


@pytest.mark.slow
@pytest.mark.skipif(resolve_convolutions("auto") == "torch", reason="no compiler, or not AVX2")
def test_convolutions_of_all_layers_and_their_gradients(benchmark):
    rows = list(benchmark.BENCHMARKS["convolution"].measure(benchmark.Settings(**TINY | {"width": 16})))
    assert len(rows) == 7 * 3 * 3
    assert all(row.value > 0 for row in rows)


@pytest.mark.slow
def test_the_benchmark_of_the_card_on_the_cpu(benchmark, monkeypatch):
    settings = benchmark.Settings(**TINY)
    monkeypatch.setattr(benchmark.BENCHMARKS["gpu"], "STEPS", 1)
    rows = list(benchmark.BENCHMARKS["gpu"].measure(settings, device="cpu", matrix=64))
    measures = [row.measure for row in rows]
    assert {"teacher step", "SNL search step", "distillation step", "ours against naive"} <= set(measures)
    assert all(row.value > 0 for row in rows if row.measure.endswith("of the matrix rate"))


@pytest.mark.gpu
def test_the_benchmark_of_the_card_on_the_card(benchmark):
    settings = benchmark.Settings(**TINY)
    assert list(benchmark.BENCHMARKS["gpu"].measure(settings, matrix=512))


@pytest.mark.slow
def test_the_command_writes_json(benchmark, monkeypatch, tmp_path):
    target = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "topk", "--quick", "--threads", "1", "--out", str(target)])
    assert benchmark.main() == 0
    report = json.loads(target.read_text())
    assert report["settings"]["threads"] == 1
    assert {row["benchmark"] for row in report["rows"]} == {"topk"}
    assert all(row["value"] > 0 for row in report["rows"])


@pytest.mark.slow
def test_the_card_is_skipped_in_words_where_there_is_none(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "gpu", "--threads", "1"])
    assert benchmark.main() == 0
    assert "skipped, torch sees no CUDA device" in capsys.readouterr().out

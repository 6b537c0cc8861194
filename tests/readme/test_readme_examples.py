"""The examples of README.md and docs/extending.md, run as a reader would: files written, commands typed."""

import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relinearize import cli
from relinearize.records.run import Record, find_records

ROOT = Path(__file__).parents[2]
TEXT = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/extending.md"))
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n(.*?)<!-- end -->", TEXT, flags=re.DOTALL))
BLOCK = re.compile(r"(?:`([\w/.]+)`:\n\n)?```(\w+)\n(.*?)```", flags=re.DOTALL)
LONGEST = 40  # lines: what a newcomer is asked to write


def blocks(example: str, language: str | None = None) -> list[tuple[str, str, str]]:
    """(file name or "", language, text) of each fenced block of an example."""
    found = BLOCK.findall(EXAMPLES[example])
    return [block for block in found if language in (None, block[1])]


@pytest.fixture
def run_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Record]:
    """run_example(name, override, ...): write the example's files, type its commands, made short; returns the record.

    In this process: importing torch takes longer than what the examples do.
    """
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)

    def run(example: str, *short: str) -> Record:
        for name, language, text in blocks(example):
            if language != "sh":
                assert name, f"the example {example} does not say where this goes: {text[:60]}"
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_text(text, encoding="utf-8")
        for command in "".join(text for _, _, text in blocks(example, "sh")).splitlines():
            arguments = shlex.split(command)
            assert arguments[0] == "relinearize"
            if arguments[1] == "run":
                arguments += [*short, "trainer.progress=none", "logger=none"]
            monkeypatch.setattr(sys, "argv", arguments)
            cli.main()
        ((_, record),) = find_records([Path("outputs/debug/runs")])
        return record

    return run


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_short(example: str) -> None:
    lines = [line for _, _, text in blocks(example) for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) < LONGEST


@pytest.mark.slow
def test_own_images(tmp_path: Path, run_example: Callable[..., Record]) -> None:
    draw = np.random.default_rng(0)
    for split, count in {"train": 30, "test": 4}.items():
        for level, name in ((60, "rose"), (200, "tulip")):
            (tmp_path / "flowers" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(level - 50, level + 50, (70 + index, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "flowers" / split / name / f"{index}.png")
    record = run_example("images", "scale=debug", "dataset.subset=null")
    assert record.dataset.title == "Flowers" and record.dataset.image_size == 64
    assert record.dataset.train + record.dataset.holdout == 60


@pytest.mark.slow
def test_own_dataset(tmp_path: Path, run_example: Callable[..., Record]) -> None:
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in {"train": 240, "test": 40}.items():
        labels = np.arange(count) % 2
        arrays[f"{split}_images"] = draw.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(tmp_path / "shapes.npz", **arrays)
    record = run_example("dataset", "scale=debug")
    assert (record.dataset.name, record.dataset.classes, record.accuracy.n_test) == ("shapes", 2, 40)


def test_own_backbone(run_example: Callable[..., Record]) -> None:
    record = run_example("backbone", "scale=debug")
    assert record.backbone.name == "small_net"
    assert [site.total for site in record.sites] == [8 * 8 * 8] * 2
    assert record.budget.met == record.budget.asked == round(0.1 * 2 * 8 * 8 * 8)


def test_own_search(run_example: Callable[..., Record]) -> None:
    record = run_example("search", "scale=debug")
    assert (record.method.name, record.method.search) == ("late-first", "LateFirst")
    kept = [site.kept / site.total for site in record.sites]
    assert kept == sorted(kept) and kept[-1] == 1


def test_own_score(run_example: Callable[..., Record]) -> None:
    record = run_example("score", "scale=debug")
    assert (record.method.name, record.method.search) == ("energy", "Progressive")
    assert record.config["score"]["_target_"] == "my_score.energy" and record.stages["search"].epochs == 0


@pytest.mark.slow
def test_own_stage(run_example: Callable[..., Record]) -> None:
    record = run_example("stage", "scale=debug")
    assert record.method.finetune == "NoisyDistill"
    assert record.config["method"]["finetune"]["noise"] == 0.05


def test_python_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, _, text),) = blocks("api", "python")
    code = [line for line in text.splitlines() if line and not line.startswith("import")]
    assert len(code) == 10
    check = "assert mask.count == relinearize.relu_total(network) == 10_000"
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(text + check, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("47104 {'relu': 16384, ")
    assert (tmp_path / "mask.safetensors").is_file()

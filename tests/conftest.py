"""Settings and fixtures shared by all tests. torch is imported late: the process that hands tests out needs none."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

# Two torch threads on a busy two-core machine can be ten times slower than one for small tensors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(autouse=True, scope="session")
def torch_threads() -> None:
    """As many as OMP_NUM_THREADS says, in tests that change the number, too."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m gpu` on a machine without a GPU skips instead of failing."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Share of ReLUs -> (record, folder) of the run on its own, in a store of its own."""
    from quick_runs import LARGE, MIDDLE, SMALL, quick_run

    return {
        share: quick_run(tmp_path_factory.mktemp(f"alone-{share}"), f"budget.fraction={share}")
        for share in (LARGE, MIDDLE, SMALL)
    }


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """typed("run", ...) -> (status, standard output, standard error) of the program, in this process and in `tmp_path`.

    Starting a process takes longer than most tests: importing torch and Lightning costs seconds.
    """
    from relinearize import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["relinearize", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ, COLUMNS="200"):  # what a command sets there ends with it
        yield call


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the stages that were really trained, in order."""
    from relinearize.runs import stages

    names = []
    fit = stages.fit

    def counted(stage, *arguments, **settings):
        names.append(stage.name)
        return fit(stage, *arguments, **settings)

    monkeypatch.setattr(stages, "fit", counted)
    return names

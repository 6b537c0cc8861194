"""Settings shared by all tests."""

import os

# Two torch threads on a busy two-core machine can be ten times slower than one for small tensors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m gpu` on a machine without a card skips instead of failing."""
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

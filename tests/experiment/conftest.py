"""Runs that several tests look at, done once."""

import pytest
from quick_runs import LARGE, MIDDLE, SMALL, quick_run

from relinearize.experiment import making


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Share of ReLUs -> (record, folder) of the run on its own, in a store of its own."""
    return {
        share: quick_run(tmp_path_factory.mktemp(f"alone-{share}"), f"budget.fraction={share}")
        for share in (LARGE, MIDDLE, SMALL)
    }


@pytest.fixture
def fits(monkeypatch):
    """The names of the stages that were really trained, in order."""
    names = []
    fit = making.fit

    def counted(stage, *arguments, **settings):
        names.append(stage.name)
        return fit(stage, *arguments, **settings)

    monkeypatch.setattr(making, "fit", counted)
    return names

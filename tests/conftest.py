"""Settings and fixtures shared by all tests. torch is imported late: the process that hands tests out needs none."""

import copy
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

# Two torch threads on a busy two-core machine can be ten times slower than one for small tensors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml
from filelock import FileLock

# Hydra composes thousands of configs here, and reading their files takes a part of that in pure Python.
yaml.SafeLoader = yaml.CSafeLoader
CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True, scope="session")
def torch_threads() -> None:
    """As many as OMP_NUM_THREADS says, in tests that change the number, too."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True, scope="session")
def forks_that_train() -> None:
    """The first backward pass decides whether forked processes can make one: not after torch.compile's fake tensors."""
    import torch

    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True, scope="session")
def config_files_are_read_once() -> None:
    """Hydra reads some thirty files for each of the thousands of configs that the tests compose."""
    from hydra.core.plugins import Plugins

    Plugins.instance()  # executes the module of FileConfigSource again: there is another class afterwards
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    found, load = {}, FileConfigSource.load_config

    def once(source: FileConfigSource, config_path: str) -> object:
        if not source.path.startswith(str(CONF)):
            return load(source, config_path)
        key = source.provider, source.path, config_path
        if key not in found:
            found[key] = load(source, config_path)
        return copy.deepcopy(found[key])

    FileConfigSource.load_config = once


@pytest.fixture(autouse=True, scope="session")
def choices_are_composed_once() -> None:
    """Hydra takes a fifth of a second for a choice of files, which most commands of the tests share.

    Files in folders of a test are read each time.
    """
    from hydra._internal import config_loader_impl
    from hydra._internal.defaults_list import Overrides

    loader, lists, configs = config_loader_impl.ConfigLoaderImpl, {}, {}
    list_files, compose = config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list

    def places(repo: object) -> tuple | None:
        sources = repo.get_sources()
        ours = all(source.scheme() != "file" or source.path == str(CONF) for source in sources)
        return tuple((source.scheme(), source.path) for source in sources) if ours else None

    def listed(repo: object, config_name: str, overrides_list: list, **settings: bool) -> object:
        values = Overrides(repo, overrides_list).config_overrides
        choices = [override.input_line for override in overrides_list if override not in values]
        key = places(repo), config_name, *choices, *settings.items()
        if key[0] is None or key not in lists:
            lists[key] = list_files(repo, config_name, overrides_list, **settings)
        return replace(lists[key], config_overrides=values)

    def composed(self: object, defaults: list, repo: object) -> object:
        key = places(repo), repr(defaults)
        if key[0] is None or key not in configs:
            while len(configs) >= 50:
                del configs[next(iter(configs))]
            configs[key] = compose(self, defaults, repo)
        return copy.deepcopy(configs[key])

    config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list = listed, composed


@pytest.fixture(autouse=True, scope="session")
def seeds_leave_no_stacks() -> None:
    """Without a GPU, torch.manual_seed notes the whole stack for the day that there is one."""
    import torch

    if not torch.cuda.is_available():
        torch.cuda.manual_seed_all = torch.xpu.manual_seed_all = lambda seed: None


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test, or a command that it calls, sets in the environment ends with it."""
    with patch.dict(os.environ):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest -m gpu` on a machine without a GPU skips instead of failing."""
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile's own graphs, guards and hooks, on torch's kernels: its C++ would take minutes.

    Generated code is run by the tests of the activations and by those that need a GPU.
    """
    from torch import nn

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: real(self, backend="eager", **options))


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """shared_run(name, override, ..., method=...) -> (record, folder) of a quick run that all worker processes share.

    Each in an output folder and a store of its own, which nobody changes: tests that write take a copy.
    """
    from quick_runs import quick_run

    from relinearize.records.run import find_records

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    folder = folder / "shared"
    folder.mkdir(exist_ok=True)

    def run(name: str, *overrides: str, **settings: str) -> tuple:
        with FileLock(folder / f"{name}.lock"):
            if not (folder / f"{name}.done").exists():
                quick_run(folder / name, *overrides, **settings)
                (folder / f"{name}.done").touch()
        path, record = find_records([folder / name / "runs"])[0]
        return record, path.parent

    return run


@pytest.fixture(scope="session")
def alone(shared_run: Callable) -> dict:
    """Share of ReLUs -> (record, folder) of the run on its own, in a store of its own."""
    from quick_runs import LARGE, MIDDLE, SMALL

    return {share: shared_run(f"alone-{share}", f"budget.fraction={share}") for share in (LARGE, MIDDLE, SMALL)}


@pytest.fixture(scope="session")
def senet(shared_run: Callable) -> tuple:
    """(record, folder) of a SENet run on its own."""
    return shared_run("senet", "budget.fraction=0.2", method="senet")


@pytest.fixture(scope="session")
def senetpp(shared_run: Callable) -> tuple:
    """(record, folder) of a SENet++ run on its own, with a sub-model of half the width."""
    return shared_run("senetpp", "budget.fraction=0.2", method="senetpp")


@pytest.fixture(scope="session")
def rlnet(shared_run: Callable) -> tuple:
    """(record, folder) of an RLNet run on its own, with two routes."""
    return shared_run("rlnet", "budget.fraction=0.2", method="rlnet")


@pytest.fixture(scope="session")
def random_masks(shared_run: Callable) -> tuple:
    """(record, folder) of a run without routes that is worth attacking; random masks, since they are quick."""
    epochs = ["method.teacher.epochs=12", "method.finetune.epochs=8", "method.finetune.learning_rate=0.05"]
    return shared_run("random", "budget.fraction=0.95", *epochs, method="random")


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """typed("run", ...) -> (status, standard output, standard error) of the program, in this process and in `tmp_path`.

    Starting a process takes longer than most tests: importing torch and Lightning costs seconds.
    """
    from hydra._internal.hydra import Hydra

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

    # Hydra composes each config once more to look for hydra.mode, which no file of ours sets.
    monkeypatch.setattr(Hydra, "get_mode", lambda *arguments, **settings: None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return call


@pytest.fixture
def run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple]]:
    """run_in_pieces(steps, folder, override, ..., method=...) -> (record, folder) of a quick run that a signal ends
    within every so-many-th training step, and that is begun again each time."""
    from quick_runs import quick_run

    from relinearize.methods.stage.stage import Stage

    def end(number: int, frame: object) -> None:
        raise SystemExit(75)

    before = signal.signal(signal.SIGUSR2, end)

    def run(every: int, folder: Path, *overrides: str, **settings: str) -> tuple:
        steps, real = itertools.count(1), Stage.training_step

        def step(stage: Stage, *arguments: object) -> object:
            if next(steps) % every == 0:
                os.kill(os.getpid(), signal.SIGUSR2)
            return real(stage, *arguments)

        monkeypatch.setattr(Stage, "training_step", step)
        for pieces in itertools.count():
            try:
                finished = quick_run(folder, *overrides, **settings)
            except SystemExit:
                continue
            assert pieces >= 3
            return finished

    yield run
    signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of a report are built, not drawn: files of one byte. Drawing takes most of a report's time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **settings: file.write(b"-"))


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

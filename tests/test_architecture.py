"""The order of the rooms and the imports between files (docs/architecture.md), read from the syntax trees."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "relinearize"
FILES_PER_FOLDER = 16

# From the ground up: a module imports its own room and rooms that stand before it. `conf_folder` etc. are single files.
ORDER = [
    "errors", "files", "progress", "terminal", "machine", "targets", "conf_folder", "processes",
    "relu", "backbones", "convolution", "data", "robustness", "corruptions", "methods", "training",
    "records", "private_inference.bundle", "private_inference.cost", "tracking", "runs", "private_inference.export",
    "evaluation", "private_inference.engine", "sweeps", "report", "commands", "cli", "__main__",
]  # fmt: skip
# Of these three rooms none knows another.
INDEPENDENT = {"relu", "backbones", "data", "convolution"}
LIGHT = {"hydra", "omegaconf", "yaml", *sys.stdlib_module_names}


def name_of(path: Path) -> str:
    """relinearize/relu/mask.py -> relu.mask; relinearize/relu/__init__.py -> relu."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Full names of the imported modules; `top_only`: outside of functions."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}".removeprefix("relinearize.")
                found.add(f"relinearize.{inside}" if inside in MODULES else node.module)
        if top_only and isinstance(node, ast.FunctionDef | ast.If):  # If: TYPE_CHECKING
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def ours(path: Path) -> set[str]:
    """The modules of this package that a file imports, without `relinearize.`."""
    return {name.split(".", 1)[1] for name in imports(path) if name.startswith("relinearize.")}


def room_of(name: str) -> str:
    return next(room for room in ORDER if name == room or name.startswith(f"{room}."))


def in_a_room(name: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in ORDER)


def test_every_file_is_in_a_room() -> None:
    assert [name for name in MODULES if name not in ("__init__", "private_inference") and not in_a_room(name)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if in_a_room(name)])
def test_imports_follow_the_order_of_the_rooms(name: str) -> None:
    room = room_of(name)
    for target in ours(MODULES[name]):
        known = room_of(target)
        assert known == room or ORDER.index(known) < ORDER.index(room), f"{name} may not import {target}"
        assert known == room or not {known, room} <= INDEPENDENT, f"{name} may not import {target}"


def test_no_circles_between_files() -> None:
    """Imports inside of functions count as well: a circle that is hidden in a function is a circle."""
    try:
        TopologicalSorter({name: ours(path) & set(MODULES) - {name} for name, path in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_no_folder_is_too_large() -> None:
    folders = {path.parent for path in MODULES.values()}
    sizes = {str(folder.relative_to(PACKAGE)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > FILES_PER_FOLDER} == {}


@pytest.mark.parametrize("name", ["cli", "sweeps.arguments", "errors", "__init__"])
def test_command_line_is_light(name: str) -> None:
    """Launchers import it in every worker, and `--cfg job` answers at once."""
    found = imports(MODULES[name], top_only=True)
    assert {module.split(".")[0] for module in found} <= LIGHT | {"relinearize"}


def test_reports_and_states_import_no_torch() -> None:
    rooms = ("report", "sweeps", "records", "private_inference.cost")
    modules = [f"relinearize.{name}" for name in MODULES if name.startswith(rooms)]
    code = f"import sys, {', '.join(modules)}; assert not {{'torch', 'pytorch_lightning', 'wandb'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("bundle.bundle", {"numpy", "safetensors"}),
        ("engine.__main__", {"numpy", "safetensors", "rich", "filelock"}),
        ("engine.party", {"numpy", "safetensors"}),
    ],
)
def test_engines_need_few_packages(module: str, allowed: set[str]) -> None:
    """Engines of private inference live in environments of their own, without torch and Hydra."""
    code = f"""
import sys
before = set(sys.modules)
import relinearize.private_inference.{module}
found = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
assert found <= {allowed | {"relinearize"}}, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_methods_and_backbones_know_no_files_of_results() -> None:
    """The mathematics stays free of the program around it: no Hydra, no W&B, no records."""
    for name, path in MODULES.items():
        if in_a_room(name) and room_of(name) in ("relu", "backbones", "methods", "private_inference.bundle"):
            found = {module.split(".")[0] for module in imports(path)}
            assert not found & {"hydra", "omegaconf", "wandb", "pydantic"}, name

"""Who may import whom (docs/architecture.md), read from the syntax tree of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "relinearize"

# Room -> what of relinearize its modules may import, beside their own room. A trailing dot means: all modules below.
MAY_IMPORT = {
    "errors": [],
    "arguments": ["errors"],
    "sweeps": ["errors", "experiment.store"],
    "relu": ["errors"],
    "backbones": ["errors"],
    "convolution": ["errors"],
    "data": ["errors"],
    "methods": ["errors", "relu.", "data.", "backbones.", "robustness."],
    "robustness": ["errors", "relu.", "data.", "backbones."],
    "inference": ["errors", "arguments", "relu.", "backbones."],
    "cost": ["errors", "arguments", "inference.bundle"],
    "engine": ["errors", "arguments", "inference.", "cost.", "__version__"],
    "experiment": [
        "errors",
        "arguments",
        "relu.",
        "data.",
        "backbones.",
        "convolution.",
        "methods.",
        "robustness.",
        "inference.",
        "cost.",
    ],
    "report": ["errors", "experiment.records", "experiment.robust_records", "cost.", "engine.record"],
    "cli": ["errors", "arguments", "sweeps.", "experiment.", "engine.", "report.", "cost.", "inference.bundle"],
    "__main__": ["cli"],
    "__init__": [],
}
LIGHT = {"hydra", "omegaconf", *sys.stdlib_module_names}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """relinearize/relu/mask.py -> relu.mask; relinearize/relu/__init__.py -> relu."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(tree: ast.AST, top_only: bool = False) -> set[str]:
    """Full names of the imported modules (or of names in packages); `top_only`: outside of functions."""
    found = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inside = (PACKAGE.parent / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {node.module}
        if top_only and isinstance(node, ast.FunctionDef | ast.If):  # If: TYPE_CHECKING
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def allowed(target: str, room: str, rules: list[str]) -> bool:
    if target == room or target.startswith(f"{room}."):
        return True
    return any(f"{target}.".startswith(rule) if rule.endswith(".") else target.startswith(rule) for rule in rules)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    name = name_of(path)
    room = name.split(".")[0]
    ours = {module.split(".", 1)[1] for module in imports(ast.parse(path.read_text())) if module[:12] == "relinearize."}
    refused = sorted(target for target in ours if not allowed(target, room, MAY_IMPORT[room]))
    assert not refused, f"relinearize.{name} may not import {refused}"


@pytest.mark.parametrize("name", ["cli", "sweeps/arguments", "errors", "__init__"])
def test_command_line_is_light(name: str) -> None:
    """Launchers import it in every worker, and `--cfg job` answers at once."""
    found = imports(ast.parse((PACKAGE / f"{name}.py").read_text()), top_only=True)
    assert {module.split(".")[0] for module in found} <= LIGHT | {"relinearize"}


@pytest.mark.parametrize("room", ["report", "sweeps", "cost"])
def test_reports_and_states_import_no_torch(room: str) -> None:
    modules = [f"relinearize.{name_of(path)}" for path in MODULES if room in path.parts]
    code = f"import sys, {', '.join(modules)}; assert not {{'torch', 'pytorch_lightning', 'wandb'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["bundle", "interpreter", "folding"])
def test_bundles_are_read_with_numpy_and_safetensors_alone(name: str) -> None:
    """Engines of private inference live in environments of their own."""
    code = f"""
import sys
before = set(sys.modules)
import relinearize.private_inference.bundle.{name}
found = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
assert found <= {{"relinearize", "numpy", "safetensors"}}, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_methods_and_backbones_know_no_files_of_results() -> None:
    """The mathematics stays free of the program around it: no Hydra, no W&B, no records."""
    for room in ("relu", "backbones", "methods", "inference"):
        for path in (PACKAGE / room).rglob("*.py"):
            found = {module.split(".")[0] for module in imports(ast.parse(path.read_text()))}
            assert not found & {"hydra", "omegaconf", "wandb", "pydantic"}, path

"""scripts/frontier.sh: which runs it starts, and what is left of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from composed_configs import composed
from quick_runs import SMALL

from relinearize.relu.mask import Mask
from relinearize.runs.pipeline import check_stages
from relinearize.runs.plan import Plan

ROOT = Path(__file__).parents[2]
SHORT = [
    "dataset=digits",
    "backbone=resnet8",
    "budget.grid=[0.1]",
    "scale=debug",
    "total_epochs=2",
    "method.teacher.epochs=1",
]
# In place of python3: notes what it is asked for; a run leaves the files of `finished`, and a search one mask.
NOTING = """#!{python}
import json, os, shutil, sys
from pathlib import Path
with open("{calls}", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[4:]
if sys.argv[3] == "report":
    print("the report of", *words)
    sys.exit()
(output,) = [Path(word.removeprefix("output=")) for word in words if word.startswith("output=")]
shutil.copytree("{finished}", output / "runs" / str(os.getpid()))
mask = output / "store" / "search" / "randommask-1" / "budget-358" / "mask.safetensors"
mask.parent.mkdir(parents=True, exist_ok=True)
shutil.copy(Path("{finished}") / mask.name, mask)
(mask.parent / "artifact.json").touch()
"""


@pytest.mark.slow
def test_arms_are_run_and_their_records_collected(tmp_path, alone):
    record, finished = alone[SMALL]
    python, calls, out = tmp_path / "bin" / "python3", tmp_path / "calls", tmp_path / "out"
    python.parent.mkdir()
    python.write_text(NOTING.format(python=sys.executable, calls=calls, finished=finished))
    python.chmod(0o755)
    words = ["unused", out, "10", "2", "BUDGETS=0.1", "ARMS=random+retrain", *SHORT]
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    ended = subprocess.run(
        [ROOT / "scripts/frontier.sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr

    *runs, report = map(json.loads, calls.read_text().splitlines())
    assert report == ["-m", "relinearize", "report", f"{out}/runs"]
    assert (out / "report.txt").read_text() == ended.stdout == f"the report of {out}/runs\n"
    made = {}
    for module, program, command, *overrides in runs:
        assert (module, program, command) == ("-m", "relinearize", "run")
        plan = Plan.of(composed(*overrides))
        check_stages(plan)
        made[plan.request.method_name] = plan.request.budget, plan.request.class_name("finetune")
    assert len(runs) == 3
    assert made == {
        "all-relu": (3584, "Retrain"), "no-relu+quadratic": (0, "Retrain"), "random": (358, "Retrain"),
    }  # fmt: skip

    kept = sorted((out / "runs").glob("*/*"))
    assert {path.name for path in kept} == {"record.json", "config.yaml", "mask.safetensors"} and len(kept) == 3 * 3
    assert all(Mask.from_file(path)[0].count == record.budget.met for path in kept if path.name == "mask.safetensors")
    (mask,) = (out / "masks").iterdir()
    assert mask.name == "randommask-1-budget-358.safetensors" and Mask.from_file(mask)[0].count == record.budget.met

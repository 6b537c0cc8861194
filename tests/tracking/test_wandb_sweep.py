"""`wandb sweep docs/wandb_sweep.yaml`: the command that an agent types, and the W&B runs that come of it."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from quick_runs import quick_run
from wandb_files import keep_off
from wandb_server import WandbServer

from relinearize import cli
from relinearize.tracking.wandb_run import run_of_agent

pytest.importorskip("wandb")

SWEEP = Path(__file__).parents[2] / "docs" / "wandb_sweep.yaml"
POINT = {  # as W&B's server sends one
    "method.search.lasso": 0.0000217,
    "method.finetune.learning_rate": 0.003,
    "method.finetune.temperature": 2,
    "budget.relus": "50k",
}


def typed_by_agent(sweep, point):
    """The command line of one point: what wandb_agent.py does with the sweep's `command`."""
    # It takes seconds: not at collection, which each worker process does.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    words["program"] = [sweep["program"]]
    command = []
    for word in create_sweep_command(list(sweep["command"])):
        command += words[word[2:-1]] if word.startswith("${") else [word]
    return command


def composed_by_agent(point, monkeypatch, capsys):
    """The config of the command that an agent types."""
    command = typed_by_agent(yaml.safe_load(SWEEP.read_text()), point)
    assert command[:2] == ["relinearize", "run"] and "method.search.lasso=2.17e-05" in command
    monkeypatch.setattr(sys, "argv", [*command, "--cfg", "job"])
    capsys.readouterr()
    cli.main()
    return yaml.safe_load(capsys.readouterr().out)


def test_the_agents_command_is_one_that_hydra_composes(monkeypatch, capsys):
    assert set(yaml.safe_load(SWEEP.read_text())["parameters"]) == set(POINT)
    config = composed_by_agent(POINT, monkeypatch, capsys)
    assert config["method"]["search"]["lasso"] == pytest.approx(0.0000217)
    assert config["method"]["finetune"]["learning_rate"] == 0.003 and config["method"]["finetune"]["temperature"] == 2
    assert (config["budget"]["relus"], config["logger"]["name"]) == ("50k", "wandb")


@pytest.mark.slow
def test_the_fine_tuning_alone_is_the_agents_run(tmp_path, monkeypatch, capsys):
    """wandb.init by itself would give every stage the agent's one id, project and sweep."""
    keep_off(monkeypatch, tmp_path / "wandb-own")
    server = WandbServer()
    point = tmp_path / "point.yaml"
    point.write_text("wandb_version: 1\nseed:\n  value: 0\n")
    agent = {"SWEEP_ID": "sweep1", "RUN_ID": "run1", "SWEEP_PARAM_PATH": str(point), "PROJECT": "of-the-sweep"}
    for name, value in {**agent, "BASE_URL": server.url, "API_KEY": "0" * 40}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    run_of_agent.cache_clear()
    short = ["method.teacher.epochs=1", "method.finetune.epochs=1", "budget.fraction=0.5", "dataset.subset=120"]
    try:
        record, _ = quick_run(tmp_path, *short, "logger=wandb", method="random")
        assert "WANDB_RUN_ID" not in os.environ
    finally:
        import wandb

        wandb.teardown()
        server.shutdown()
        run_of_agent.cache_clear()
    keys = {stage: f"{stage}-{record.stages[stage].key[:12]}" for stage in ("teacher", "search")}
    assert set(server.runs) == {*keys.values(), "run1"}
    sweeps = {name: {sent.get("sweep") for sent in run["upserts"]} - {None} for name, run in server.runs.items()}
    assert sweeps == {keys["teacher"]: set(), keys["search"]: set(), "run1": {"sweep1"}}
    assert {sent["project"] for run in server.runs.values() for sent in run["upserts"]} == {"of-the-sweep"}
    assert server.runs["run1"]["summary"]["val/accuracy_selected"] == record.accuracy.holdout
    assert len(server.column("run1", "epoch")) == 1
    # Resumed, an agent's run is given its whole config, where a new one is given the sweep's parameters.
    config = {name: entry["value"] for name, entry in json.loads(server.runs["run1"]["config"]).items()}
    assert {"method", "lineage", "_wandb"} < set(config)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    resumed = composed_by_agent(config | POINT, monkeypatch, capsys)
    same = {name: config[name] for name in ("seed", "output", "store")}
    assert resumed == composed_by_agent(same | POINT, monkeypatch, capsys)

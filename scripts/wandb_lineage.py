"""The lineage of runs that were made offline, added after `wandb sync`: what each stage was made from.

    python scripts/wandb_lineage.py ENTITY/PROJECT

Offline W&B refuses to say what a run uses, so each run's config names it (`lineage`). Doing it twice does no harm.
"""

import sys

import wandb


def declare_uses(project: str) -> int:
    """Make the artifacts that the runs of ENTITY/PROJECT name in their config inputs of these runs; how many."""
    api = wandb.Api()
    uses = [
        (run, made[kind])
        for run in api.runs(project)
        for made in run.config.get("lineage", {}).values()
        for kind in ("mask", "weights")
        if kind in made
    ]
    for run, name in uses:
        run.use_artifact(api.artifact(f"{project}/{name}"))
    return len(uses)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].count("/") != 1:
        sys.exit("usage: python scripts/wandb_lineage.py ENTITY/PROJECT")
    print(f"{declare_uses(sys.argv[1])} inputs declared")

"""Searches, fine-tunings and sensitivities of different methods combine."""

import pytest
from composed_configs import composed, tiny

SEARCHES = [
    "snl", "random", "senet", "random_allocated", "rlnet", "relupruner", "autorep", "bcd", "deepreduce",
    "filter_pruning",
]  # fmt: skip
FINETUNES = ["distill", "senet", "senet_activations", "senetpp", "rlnet", "weight_pruning"]
SENSITIVITIES = {
    "computed": [], "shapley": [], "uniform": [], "proportional": [], "snl": [],
    "list": ["sensitivity.values=[1,2,3,4,5,6,7]"],
}  # fmt: skip
SMALL = ["dataset=digits", "backbone=resnet8", "backbone.width=8", "trainer.accelerator=cpu", "trainer.progress=none"]


def accepted(*overrides):
    """The plan of a combination, each of whose stages could be built."""
    from relinearize.runs.pipeline import check_stages
    from relinearize.runs.plan import Plan

    plan = Plan.of(composed(*SMALL, *overrides))
    check_stages(plan)
    assert set(plan.artifacts) >= {"teacher", "search", "finetune"}
    return plan


@pytest.mark.parametrize(
    ("overrides", "allocated"),
    [
        ("method=snl method/finetune=senet", False),
        ("method=snl method/finetune=senet_activations", False),
        ("method=snl method/search=random_allocated sensitivity=uniform", True),
        ("method=senet method/finetune=distill", True),
        ("method=relupruner method/finetune=retrain", False),
        ("method=autorep method/finetune=senet", False),
        ("method=bcd method/finetune=retrain scale=reduced", False),
        *((f"method=bcd method/search@method.search.first=progressive scale={scale} "
           f"~scale/{scale}/search@method.search.first", False) for scale in ("reduced", "demo", "debug")),
        ("method=bcd method/search@method.search.first=relupruner scale=reduced "
         "scale/reduced/search@method.search.first=relupruner", False),
        ("method=delphi method/finetune=retrain", False),
        ("method=delphi method/finetune=senet", False),
        ("method=safenet method/finetune=senetpp", False),
        ("method=safenet method/finetune=rlnet +method.routes=2", False),
        ("method=senet method/finetune=senet_activations", True),
        ("method=senet sensitivity=snl", True),
        ("method=senet sensitivity=snl method/search@sensitivity.search=random", True),
        ("method=senet sensitivity=list sensitivity.values=[1,2,3,4,5,6,7]", True),
        ("method=senetpp method/search=snl scale=reduced", False),
        ("method=senet method.search.paper_parity=true method.teacher.selection=test method.finetune.selection=test "
         "dataset.holdout=0 +backbone.student_skip=false", True),
    ],
)  # fmt: skip
def test_stages_of_the_methods_combine(overrides, allocated, tmp_path):
    assert accepted(f"output={tmp_path}", *overrides.split()).request.allocated == allocated


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_finetuning_and_sensitivity_combine(search, tmp_path):
    """A Latin square: every two of them meet, and no three of them twice."""
    for row, finetune in enumerate(FINETUNES):
        sensitivity = list(SENSITIVITIES)[(SEARCHES.index(search) + row) % len(SENSITIVITIES)]
        plan = accepted(
            f"output={tmp_path}", f"method/search={search}", f"method/finetune={finetune}",
            f"sensitivity={sensitivity}", *SENSITIVITIES[sensitivity],
        )  # fmt: skip
        made = "sensitivity" in plan.artifacts
        assert made == (plan.request.allocated and sensitivity in ("computed", "shapley", "snl"))


def test_a_released_list_is_allocated_exactly(tmp_path):
    from fake_sets import write_cifar10

    from relinearize.methods.senet.released import LISTS
    from relinearize.relu.allocation import allocate
    from relinearize.runs.plan import Plan

    write_cifar10(tmp_path, per_file=1)
    name = "ResNet18_C10_relu150k"
    plan = Plan.of(composed(
        "experiment=paper/senet_cifar10_resnet18", f"dataset.root={tmp_path}", "dataset.verify=false",
        "sensitivity=released_list", f"sensitivity.list={name}", "budget.relus=148897", "trainer.accelerator=cpu",
    ))  # fmt: skip
    counts = allocate(plan.request.sizes, plan.sensitivities(), plan.request.budget)
    assert tuple(counts.values()) == LISTS[name].counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        "method=senet sensitivity=snl method.search.granularity=channel",
        "method=snl method/search=random_allocated method/finetune=senet_activations",
        "method=snl method/finetune=senet method.finetune.sites=all",
        "method=senet method.search.paper_parity=true +backbone.student_skip=false sensitivity=uniform",
    ],
)
def test_combinations_run(overrides, tmp_path):
    from relinearize.runs.pipeline import run

    record, _ = run(tiny(composed(*SMALL, f"output={tmp_path}", *overrides.split())))
    assert 0 < record.budget.met <= record.budget.asked

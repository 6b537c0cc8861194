"""Every experiment composes, and really starts (slow)."""

import pytest
from composed_configs import GROUPS, composed, files_of, swept, tiny
from test_paper_experiments import PARITY


@pytest.mark.parametrize("experiment", files_of("experiment"))
def test_every_experiment_composes(experiment):
    config = composed(f"experiment={experiment}")
    assert config.method.name and config.dataset.name


def chosen(experiment):
    """Overrides for the config groups that the file sweeps over, as few as contain every method, search and tuning."""
    groups = {key: values for key, values in swept(experiment).items() if "/" in key or key in GROUPS}
    rows = range(max(map(len, groups.values()), default=1))
    return [" ".join(f"{key}={values[row % len(values)]}" for key, values in groups.items()) for row in rows]


CHOSEN = [(name, choice) for name in files_of("experiment") for choice in chosen(name)]
# Each teacher, search and fine-tuning of the experiments once, on each kind of backbone.
TRAINED = [
    "demo", "paper/rlnet_cifar10_resnet18", "paper/senet_cifar10_vgg16_bn", "paper/senetpp_cifar100_resnet18",
    "paper/snl_cifar100_wrn22_8", "reduced/ablation_cifar10_resnet18w16",
]  # fmt: skip
# test_paper_experiments.py builds the stages of these, with the papers' settings.
BUILT = [f"paper/{name}" for name in PARITY]


def tiny_experiment(experiment, folder, *overrides):
    """On the digits in place of its images; VGG16 pools too often for these."""
    from fake_sets import write_cifar10

    images = ["dataset=digits", "dataset.mean=[0.3]", "dataset.std=[0.4]"]
    if "vgg" in experiment:
        write_cifar10(folder, per_file=13)
        images = ["dataset=cifar10", f"dataset.root={folder}", "dataset.verify=false"]
    return tiny(composed(f"experiment={experiment}", f"output={folder}", "logger=none", *images, *overrides))


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "choice"), [case for case in CHOSEN if case[0] in TRAINED])
def test_experiments_train_on_tiny_images(experiment, choice, tmp_path):
    from relinearize.runs.pipeline import run

    record, _ = run(tiny_experiment(experiment, tmp_path, *choice.split()))
    assert record.budget.met == record.budget.asked


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "choice"), [case for case in CHOSEN if case[0] not in TRAINED + BUILT])
def test_the_other_experiments_build_their_stages(experiment, choice, tmp_path):
    """Each differs from one that trains in sizes, rates and images only; a small network takes the same settings."""
    from relinearize.runs.pipeline import check_stages
    from relinearize.runs.plan import Plan

    stages = check_stages(Plan.of(tiny_experiment(experiment, tmp_path, "backbone=resnet8", *choice.split())))
    assert {"method.teacher", "method.finetune"} <= stages.keys()


def test_ready_made_sweeps_ask_their_searches_for_the_budgets_of_all_jobs():
    from relinearize.relu.budget import parse_count

    for experiment in ("sweep/pareto", "sweep/ablation"):
        budgets = [parse_count(value) for value in swept(experiment)["budget"]]
        assert list(composed(f"experiment={experiment}").budget.grid) == budgets
    named = [composed("experiment=sweep/ablation", *choice.split()).method.name for choice in chosen("sweep/ablation")]
    assert named == ["snl+distill", "senet+senet", "random+senet_activations"]


@pytest.mark.slow
def test_jobs_of_snls_table_share_a_teacher_and_its_budgets_resolve(tmp_path):
    """Each method builds its stages at the sweep's own sizes; weight pruning keeps all ReLUs and is a job beside it."""
    from fake_sets import write_cifar10

    from relinearize.runs.pipeline import check_stages
    from relinearize.runs.plan import Plan

    write_cifar10(tmp_path, per_file=13)
    params = swept("sweep/snl_table1")
    assert list(composed("experiment=sweep/snl_table1").budget.grid) == [0.3, 0.1, 0.05]
    assert params["budget.fraction"] == ["0.3", "0.1", "0.05"]
    shares = {"deepreduce": params["budget.fraction"]}  # its networks differ by budget
    jobs = [(method, share) for method in params["method"] for share in shares.get(method, ["0.3"])]
    teachers, counts = set(), {}
    for method, share in [*jobs, ("weight_pruning", "1.0")]:
        settings = [f"method={method}", "method/teacher=classifier", f"budget.fraction={share}", f"output={tmp_path}"]
        images = [f"dataset.root={tmp_path}", "trainer.accelerator=cpu"]
        plan = Plan.of(composed("experiment=sweep/snl_table1", *settings, *images))
        if method not in counts:
            assert {"method.teacher", "method.finetune"} <= check_stages(plan).keys()
        teachers.add(plan.teacher.key)
        counts.setdefault(method, []).append((plan.request.budget, plan.request.total, plan.request.new_student()))
    assert len(teachers) == 1
    expected_counts = {"weight_pruning": [122_880], "deepreduce": [36_864, 12_288, 6_144]}
    for method, found in counts.items():
        expected = expected_counts.get(method, [36_864])
        assert [budget for budget, _, _ in found] == expected and {total for _, total, _ in found} == {122_880}
    widths = [student.network.conv1.out_channels for _, _, student in counts["deepreduce"]]
    assert widths == [16, 8, 4], "S2 + S3 with positions out; S2 + S3 thinned at 1/2 and 1/4 of the channels"


@pytest.mark.slow
def test_bf16_option_trains_on_a_cpu(tmp_path):
    """Emulated and very slow on processors without bf16 instructions: a handful of images."""
    from quick_runs import quick_run

    record, _ = quick_run(
        tmp_path, "trainer=bf16", "trainer.progress=none", "trainer.accelerator=cpu", "method.search.epochs=1",
        "dataset.subset=40", "method.teacher.epochs=1", "method.finetune.epochs=1",
    )  # fmt: skip
    assert record.hardware.precision == "bf16"
    assert record.budget.met == record.budget.asked == 1152

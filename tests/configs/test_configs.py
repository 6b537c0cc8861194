"""Every config file composes; every experiment really starts (slow)."""

import copy
import functools
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from relinearize.cli import conf_folder

CONF = conf_folder()
ROOT = Path(__file__).parents[2]


def files_of(group):
    return sorted(str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml"))


@functools.cache
def _composed(overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config.method.name = config.method.name  # sweep/ablation names its runs by Hydra's choices
        with open_dict(config):
            del config.hydra
        return config


def composed(*overrides):
    return copy.deepcopy(_composed(overrides))


def swept(experiment):
    """Key -> values of the file's own sweep."""
    params = OmegaConf.select(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml"), "hydra.sweeper.params")
    return {key: str(values).split(",") for key, values in (params or {}).items()}


GROUPS = [
    "method",
    "sensitivity",
    "score",
    "allocation",
    "replacement",
    "dataset",
    "backbone",
    "trainer",
    "callbacks",
    "logger",
    "scale",
]
STAGES = ["teacher", "search", "finetune"]
NEEDED = {  # keys without a default
    "dataset=image_folder": ["dataset.image_size=8", "dataset.root=/data"],
    "dataset=torchvision": ["dataset.class=SVHN"],
}


def one_of_each(groups):
    """Lists of choices, as few as there are files in the largest group, that contain every file of every group."""
    choices = [[f"{group}={name}" for name in files_of(group) if "/" not in name] for group in groups]
    return [[files[row % len(files)] for files in choices] for row in range(max(map(len, choices)))]


@pytest.mark.parametrize("row", one_of_each(GROUPS), ids=lambda row: row[0])
def test_every_file_of_every_group_composes_and_resolves(row):
    """A file of each group at a time; method/teacher/... are groups of their own."""
    config = composed(*row, *(key for choice in row for key in NEEDED.get(choice, [])))
    OmegaConf.resolve(config)
    assert all(config[group] is not None for group in GROUPS)


def test_every_stage_file_can_be_chosen_without_its_method():
    for row in one_of_each([f"method/{stage}" for stage in STAGES]):
        method = composed(*row).method
        assert all(method[stage]._target_.startswith("relinearize.") for stage in STAGES)


@pytest.mark.parametrize("launcher", files_of("launcher"))
def test_every_launcher_composes_and_leaves_the_run_as_it_is(launcher):
    plugin = {"submitit_local": "submitit", "slurm": "submitit"}.get(launcher, launcher)
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"launcher={launcher}", "sweep=mine"], return_hydra_config=True)
    ours = {"submitit_local": "LocalWaitForAll", "slurm": "SlurmWaitForAll"}
    target = ours.get(launcher, f"{launcher}launcher")
    assert config.hydra.launcher._target_.lower().endswith(f".{target.lower()}")
    OmegaConf.resolve(config.hydra.launcher)
    with open_dict(config):
        del config.hydra
    assert config == composed("sweep=mine")


def test_knobs_of_slurm_are_set_behind_the_group():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.setup=[module load cuda]"]
        launcher = compose("config", given, return_hydra_config=True).hydra.launcher
    assert (launcher.partition, launcher.setup, launcher.gpus_per_node) == ("gpu", ["module load cuda"], 1)


def test_defaults_are_the_papers_recipe():
    """SNL (ICML 2022), scripts of its official code: pre-training, search and fine-tuning."""
    method = composed("method=snl").method
    teacher, search, tune = method.teacher, method.search, method.finetune
    assert (teacher.epochs, teacher.batch_size, teacher.learning_rate) == (160, 256, 0.1)
    assert (teacher.schedule, list(teacher.milestones), teacher.gamma) == ("milestones", [0.5, 0.75], 0.1)
    assert (search.epochs, search.batch_size, search.learning_rate, search.alpha_learning_rate) == (
        2000,
        128,
        1e-3,
        None,
    )
    assert (search.lasso, search.lasso_growth, search.threshold, search.temperature) == (1e-5, 1.1, 1e-2, 4.0)
    assert (search.patience_epochs, search.paper_parity) == (5, False)
    assert (tune.epochs, tune.batch_size, tune.learning_rate, tune.schedule) == (100, 128, 1e-3, "cosine")
    for stage in (teacher, tune):
        assert (stage.momentum, stage.weight_decay, stage.selection) == (0.9, 5e-4, "best")


def test_scale_gives_each_stage_its_own_values():
    def values(*overrides):
        method = composed("scale=reduced", *overrides).method
        return method.search, method.finetune.get("epochs")

    search, tuned = values("method=snl")
    assert (search.epochs, search.lasso, search.alpha_learning_rate, search.batch_size) == (16, 3e-4, 1e-2, 128)
    assert tuned == 4
    for method in ("senet", "senetpp", "rlnet"):
        search, tuned = values(f"method={method}")
        assert (search.epochs, search.learning_rate, tuned) == (16, 0.05, 4)
    search, tuned = values("method=senet", "method/search=snl")
    assert (search.epochs, search.lasso, tuned) == (16, 3e-4, 4)
    assert values("method=random") == ({"_target_": "relinearize.methods.baselines.random_mask.RandomMask"}, 4)
    for method in ("all_relu", "rlnet_all_relu"):
        assert values(f"method={method}")[1] == 0  # a run without fine-tuning stays one
    sensitivity = composed("scale=reduced", "method=senet", "sensitivity=snl").sensitivity
    assert (sensitivity.search.epochs, sensitivity.search.lasso) == (16, 3e-4)


def test_a_planner_brings_its_replacement_and_the_users_wins():
    def chosen(*overrides):
        return composed(*overrides).replacement.name

    assert [chosen(f"method={name}") for name in ("snl", "delphi", "safenet")] == ["identity", "quadratic", "cubic"]
    assert chosen("experiment=sweep/frontier", "method=delphi") == "quadratic"
    assert chosen("method=delphi", "replacement=affine") == "affine"
    for method in ("delphi", "safenet"):
        assert composed(f"method={method}", "scale=reduced").method.finetune.clip == 1.0


def test_a_value_of_the_users_wins_over_the_scale():
    method = composed("method=snl", "scale=reduced", "method.search.epochs=5", "method.teacher.batch_size=32").method
    assert (method.search.epochs, method.search.lasso, method.teacher.batch_size) == (5, 3e-4, 32)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("method=snl scale=reduced", "snl"),
        ("method=snl method/finetune=distill", "snl"),
        ("method=snl method/finetune=senet", "snl+senet"),
        ("method=senet method/finetune=distill scale=demo", "senet+distill"),
        ("method=senetpp method/search=snl", "snl+senetpp"),
        ("method=senet method/teacher=classifier", "senet"),
        ("method=snl method/finetune=senet method.name=mine", "mine"),
        ("experiment=sweep/ablation method/search=senet", "senet+distill"),
    ],
)
def test_a_combination_of_methods_is_named_by_its_parts(overrides, name):
    from relinearize.commands.run import combination_name

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides.split(), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    assert combination_name(config.method.name, config.hydra.runtime.choices) == name


def test_named_budgets_are_what_their_names_say():
    from relinearize.relu.budget import parse_count

    shares = {"all": 1.0, "half": 0.5, "quarter": 0.25, "tenth": 0.1, "twentieth": 0.05}
    config = composed(*(f"+budget@at_{choice}={choice}" for choice in files_of("budget")))  # all in one composition
    for choice in files_of("budget"):
        budget = config[f"at_{choice}"]
        if choice in shares:
            assert budget.fraction == shares[choice] and budget.relus is None
        elif choice != "default":
            assert parse_count(budget.relus) == parse_count(choice) and budget.fraction is None


@pytest.mark.parametrize("experiment", files_of("experiment"))
def test_every_experiment_composes(experiment):
    config = composed(f"experiment={experiment}")
    assert config.method.name and config.dataset.name


# As small as it gets, two steps a stage; overrides of keys that a method lacks are left out.
TINY = {
    "method.teacher.epochs": 1, "method.search.epochs": 1, "method.finetune.epochs": 1, "sensitivity.epochs": 1,
    "method.teacher.batch_size": 16, "method.search.batch_size": 16, "method.finetune.batch_size": 16,
    "sensitivity.batch_size": 16, "sensitivity.updates_per_epoch": 2, "sensitivity.search.epochs": 1,
    "dataset.subset": 64, "dataset.holdout": 0.5, "trainer.accelerator": "cpu", "trainer.precision": 32,
    "trainer.progress": "none", "budget.relus": None, "budget.fraction": 0.5, "budget.grid": [], "backbone.width": 8,
    **{f"method.{stage}.{key}": 1 for stage in ("teacher", "search", "finetune") for key in (
        "attack.steps", "robust_validation.steps", "robust_validation.images")},
}  # fmt: skip


def tiny(config):
    for key, value in TINY.items():
        if OmegaConf.select(config, key, default="absent") != "absent":
            OmegaConf.update(config, key, value)
    return config


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
IMAGENET = "paper/senet_imagenet_resnet18"  # tests/data/test_large_images.py trains it


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
@pytest.mark.parametrize(("experiment", "choice"), [case for case in CHOSEN if case[0] not in [*TRAINED, IMAGENET]])
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
    """Each job builds its stages at the sweep's own sizes; weight pruning keeps all ReLUs and is a job beside it."""
    from fake_sets import write_cifar10

    from relinearize.runs.pipeline import check_stages
    from relinearize.runs.plan import Plan

    write_cifar10(tmp_path, per_file=13)
    params = swept("sweep/snl_table1")
    assert list(composed("experiment=sweep/snl_table1").budget.grid) == [0.3, 0.1, 0.05]
    assert params["budget.fraction"] == ["0.3", "0.1", "0.05"]
    jobs = [(method, share) for method in params["method"] for share in params["budget.fraction"]]
    teachers, counts = set(), {}
    for method, share in [*jobs, ("weight_pruning", "1.0")]:
        settings = [f"method={method}", "method/teacher=classifier", f"budget.fraction={share}", f"output={tmp_path}"]
        images = [f"dataset.root={tmp_path}", "trainer.accelerator=cpu"]
        plan = Plan.of(composed("experiment=sweep/snl_table1", *settings, *images))
        assert {"method.teacher", "method.finetune"} <= check_stages(plan).keys()
        teachers.add(plan.teacher.key)
        counts.setdefault(method, []).append((plan.request.budget, plan.request.total, plan.request.new_student()))
    assert len(teachers) == 1
    for method, found in counts.items():
        expected = [122_880] if method == "weight_pruning" else [36_864, 12_288, 6_144]
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


# ---- SENet's experiments: what they promise --------------------------------------------------------------------------

SENET = [experiment for experiment in files_of("experiment/paper") if experiment.startswith("senet")]
RLNET = [experiment for experiment in files_of("experiment/paper") if experiment.startswith("rlnet")]
TOTALS = {  # at 32 pixels, of torchvision's network at 224
    "resnet18": 557_056, "resnet34": 966_656, "wrn22_8": 1_392_640, "vgg16_bn": 294_912,
    "torchvision_resnet18": 2_308_096,
}  # fmt: skip
EPOCHS = {
    "cifar10": (240, 150, 240), "cifar100": (240, 150, 240), "tiny_imagenet": (120, 100, 120), "imagenet": (60, 30, 50),
}  # fmt: skip


@pytest.mark.parametrize("experiment", SENET + RLNET)
def test_allocated_experiments_have_the_papers_epochs_and_possible_budgets(experiment):
    from relinearize.relu.budget import resolve_budget

    config = composed(f"experiment=paper/{experiment}")
    stages = (config.method.teacher, config.method.search, config.method.finetune)
    assert tuple(stage.epochs for stage in stages) == EPOCHS[config.dataset.name]
    assert config.backbone.get("convention", "senet") == "senet"  # torchvision's networks have all ReLUs
    assert config.sensitivity._target_ == "relinearize.methods.senet.sparse_training.SparseTraining"
    total = TOTALS[config.backbone.name] * (4 if config.dataset.name == "tiny_imagenet" else 1)
    budgets = [resolve_budget(value, None, total) for value in swept(f"paper/{experiment}")["budget.relus"]]
    assert budgets == sorted(budgets, reverse=True)


def test_every_published_point_of_senet_is_in_a_sweep():
    from relinearize.relu.budget import parse_count
    from relinearize.report.papers.published import load_published

    points = [point for point in load_published().itertuples() if point.method == "SENet"]
    assert len(points) == 8
    for point in points:
        budgets = swept(f"paper/senet_{point.dataset}_{point.backbone}")["budget.relus"]
        assert point.relus in [parse_count(value) for value in budgets], point


def test_every_published_point_of_snl_is_in_a_sweep():
    """To the rounding of the papers' counts: 49.4K was met when 50K were asked; of the rerun that is known."""
    from relinearize.relu.budget import parse_count
    from relinearize.report.papers.comparison import BUDGET_TOLERANCE
    from relinearize.report.papers.published import load_published

    points = [point for point in load_published().itertuples() if point.method in ("SNL", "SNL (independent rerun)")]
    assert len(points) == 46
    for point in points:
        files = [name for name in files_of("experiment/paper") if name.startswith(f"snl_{point.dataset}_")]
        asked = chain.from_iterable(value for name in files for value in swept(f"paper/{name}").values())
        budgets = [parse_count(value) for value in asked]
        near = [budget for budget in budgets if abs(budget - point.relus) <= BUDGET_TOLERANCE * point.relus]
        assert near or point.asked in budgets, point
    config = composed("experiment=paper/snl_cifar100_resnet18")
    assert sorted(map(parse_count, swept("paper/snl_cifar100_resnet18")["budget.relus"])) == sorted(config.budget.grid)


@pytest.mark.parametrize("experiment", files_of("experiment/paper"))
def test_heads_of_the_papers_experiments(experiment):
    """Command, hardware, GPU hours and the paper's numbers, which are those of published.csv."""
    from relinearize.report.papers.published import load_published

    config = composed(f"experiment=paper/{experiment}")
    head = (CONF / "experiment/paper" / f"{experiment}.yaml").read_text().split("defaults:")[0]
    for line in (f"# command    relinearize run -m experiment=paper/{experiment} ", "# hardware   ", "# GPU hours  "):
        assert f"\n{line}" in head
    paper = re.search(r"\n# paper {6}(.*?)\n#(?: {1,3}\w| *\n|\n)", head + "\n# x", re.DOTALL)[1]
    numbers = re.findall(r"([\d.]+)K (\d\d\.\d\d)", paper)
    known = {
        (point.relus, point.accuracy) for point in load_published().itertuples()
        if point.dataset == config.dataset.name and point.method.split(" (")[0] in ("SNL", "SENet")
    }  # fmt: skip
    assert {(round(1000 * float(count)), float(accuracy)) for count, accuracy in numbers} <= known
    assert numbers or "known" in paper or "abstract" in paper


def commands(experiment, name):
    """The arguments of the `relinearize NAME` commands in a head, without what stands in brackets."""
    head = (CONF / "experiment/paper" / f"{experiment}.yaml").read_text().split("\n# hardware")[0]
    text = " ".join(line.lstrip("# ") for line in head.split("# command")[1].splitlines())
    found = [shlex.split(command.split(" (")[0]) for command in text.split("relinearize ")[1:]]
    return [arguments for command, *arguments in found if command == name]


@pytest.mark.parametrize("experiment", files_of("experiment/paper"))
def test_the_all_relu_networks_of_the_heads_are_trained_as_the_teachers(experiment):
    """Every known accuracy of an all-ReLU network has its command; no command's network is trained any further."""
    from relinearize.report.papers.published import load_published

    config, method = composed(f"experiment=paper/{experiment}"), experiment.partition("_")[0]
    known = [point for point in load_published().itertuples() if point.method.endswith("(all ReLUs)")]
    points = [
        point for point in known if method == point.method.partition(" ")[0].lower()
        and (point.dataset, point.backbone) == (config.dataset.name, config.backbone.name)
    ]  # fmt: skip
    _, *others = commands(experiment, "run")
    assert len(others) == len(points)
    for arguments in others:
        baseline = composed(*arguments)
        assert (baseline.method.name, baseline.method.finetune.epochs, baseline.budget.fraction) == ("all-relu", 0, 1)
        assert baseline.method.teacher == config.method.teacher and list(baseline.method.search) == ["_target_"]


@pytest.mark.parametrize("experiment", RLNET)
def test_rlnet_experiments_are_evaluated_as_by_the_official_code(experiment):
    from relinearize.commands.evaluate import read_evaluation

    (arguments,) = commands(experiment, "evaluate")
    evaluation = read_evaluation(arguments)
    robust, pgd20 = evaluation.robust, evaluation.attacks["pgd20"]
    assert [robust.n_clean, robust.n_attack, robust.n_corruptions] == [None, None, None]  # all test images
    assert list(evaluation.attacks) == ["pgd20"]
    assert (pgd20["steps"], pgd20["restarts"], pgd20["losses"], pgd20["early_stop"]) == (20, 1, ["ce"], False)
    assert robust.corruptions == "files" and evaluation.corruptions["folder"].endswith("-C")


@pytest.mark.parametrize("experiment", RLNET)
def test_rlnet_experiments_train_as_the_official_code(experiment):
    config = composed(f"experiment=paper/{experiment}")
    teacher, search, finetune = config.method.teacher, config.method.search, config.method.finetune
    assert [stage.learning_rate for stage in (teacher, search, finetune)] == [0.05, 0.05, 0.01]
    for stage in (teacher, search, finetune):
        assert (stage.attack.epsilon, stage.attack.step_size, stage.attack.steps) == (8, 2, 7)
        assert stage.batch_size == 128 and stage.second_view == "augmix" and stage.weight_decay == 5e-4
    assert (teacher.attack.loss, search.attack.loss, finetune.attack.loss) == ("ce", "kl", "kl")
    assert (search.cross_entropy_weight, search.distillation_weight, search.temperature) == (0.5, 0.5, 4)
    assert (finetune.cross_entropy_weight, finetune.distillation_weight) == (0.5, 0.5)
    assert finetune.pram_weight == 1000 and finetune.pram_part_weights == {"clean": 1, "augmix": 1, "adversarial": 0}
    assert config.method.routes == 2
    if config.dataset.name == "tiny_imagenet":
        assert (config.dataset.mean, config.dataset.std) == ([0, 0, 0], [1, 1, 1])
    named = (CONF / "experiment/paper" / f"{experiment}.yaml").read_text().count("sensitivity.list=")
    assert named >= len(swept(f"paper/{experiment}")["budget.relus"])


# One of each method by default; the others differ from it in sizes and rates.
PARITY = [
    pytest.param(name, marks=() if name.endswith("_cifar10_resnet18") else pytest.mark.slow)
    for name in SENET + RLNET if "senetpp" not in name
]  # fmt: skip


@pytest.mark.parametrize("experiment", PARITY)
def test_the_parity_settings_of_a_header_build_all_stages(experiment, tmp_path):
    from fake_sets import write_cifar10

    from relinearize.runs.pipeline import check_stages
    from relinearize.runs.plan import Plan

    header = (CONF / "experiment/paper" / f"{experiment}.yaml").read_text().split("# parity")[1]
    lines = header.replace("#", " ").split("\n")
    settings = [
        word for line in lines[: next(i for i, line in enumerate(lines) if "Epochs" in line or "Teacher" in line)]
        for word in line.split() if re.fullmatch(r"\+?[a-z_.]+=\S+", word)
    ]  # fmt: skip
    assert "method.search.paper_parity=true" in settings and "dataset.holdout=0" in settings
    write_cifar10(tmp_path)
    sizes = ["dataset=cifar10", f"dataset.root={tmp_path}", "dataset.verify=false"]
    sizes += [] if experiment == "senet_imagenet_resnet18" else ["backbone.width=8"]
    settings = [word for word in settings if not word.startswith(("dataset.mean", "dataset.std"))]
    check_stages(Plan.of(composed(
        f"experiment=paper/{experiment}", f"output={tmp_path}", "trainer.accelerator=cpu", "budget.fraction=0.5",
        *sizes, *settings,
    )))  # fmt: skip


def test_what_is_only_remembered_is_marked():
    """In every file that a user reads, near the word."""
    texts = [path.read_text() for path in (*CONF.rglob("*.yaml"), ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    for text in texts:
        for found in re.finditer("remembered", text):
            assert "unverified" in text[max(0, found.start() - 150) : found.end() + 150]
    files = ("teacher/senet", "search/senet", "finetune/senet", "finetune/senet_activations")
    said = "".join((CONF / "method" / f"{name}.yaml").read_text() for name in files)
    assert not re.findall(r"paper(?!, \*unverified| is remembered|_parity|, seen)", said)


def test_the_lists_that_the_headers_name_fit_and_come_with_their_sums():
    from relinearize.methods.senet.released import LISTS

    named = set()
    for experiment in SENET + RLNET:
        config = composed(f"experiment=paper/{experiment}")
        header = (CONF / "experiment/paper" / f"{experiment}.yaml").read_text()
        for name, budget in re.findall(r"sensitivity\.list=(\S+) budget\.relus=(\d+)", header):
            kept = LISTS[name]
            pixels = {"tiny_imagenet": 64, "imagenet": 224}.get(config.dataset.name, 32)
            assert (kept.backbone, kept.image_size, sum(kept.counts)) == (config.backbone.name, pixels, int(budget))
            named.add(name)
    assert LISTS.keys() == named
    listed = re.findall(r"(\d+k) \((?:sum )?(\d+)\)", (CONF / "sensitivity/released_list.yaml").read_text())
    assert sorted(int(count) for _, count in listed) == sorted(sum(kept.counts) for kept in LISTS.values())


# ---- combinations ----------------------------------------------------------------------------------------------------

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

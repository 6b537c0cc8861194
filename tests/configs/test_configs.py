"""Every file of every config group composes; defaults, scales and names are what they promise."""

import pytest
from composed_configs import CONF, GROUPS, composed, files_of
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("scale", ["full", "reduced", "demo", "debug"])
def test_a_one_shot_mask_has_no_ladder_at_any_scale(scale):
    sensitivity = composed("sensitivity=fisher", f"scale={scale}").sensitivity
    for search in (composed("method=one_shot", f"scale={scale}").method.search, sensitivity.search):
        assert (search.rungs, search.rung_epochs) == (1, 0)
        assert search.lowest * 1_000_000 <= 1  # no rung above any budget


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

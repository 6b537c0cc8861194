"""The commands as they are typed: what they print, where, and with which exit status."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from quick_runs import QUICK, SEARCH, shell, trained_epochs

from relinearize.commands.words import as_meant, flags_first, with_home
from relinearize.methods.stage.stage import Stage
from relinearize.records.run import find_records
from relinearize.runs import stages as making
from relinearize.sweeps.arguments import SWEEP_VARIABLE, name_sweep, with_budget_grid


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("trained before looking")

    monkeypatch.setattr(making, "fit", refuse)


RUN_ERRORS = {
    "budget too large": (["budget.relus=5000"], ["budget.relus=5000", "2,304"]),
    "budget zero": (["budget.relus=0"], ["budget.relus=0", "2,304"]),
    "budget negative": (["budget.relus=-3"], ["budget.relus=-3", "2,304"]),
    "budget nonsense": (["budget.relus=many"], ["budget.relus=many", "2,304"]),
    "fraction above one": (["budget.fraction=1.5"], ["budget.fraction=1.5", "2,304"]),
    "both budgets": (["budget.relus=9", "budget.fraction=0.5"], ["budget.relus", "budget.fraction", "not both"]),
    "unknown group": (["methods=snl"], ["methods", "method"]),
    "a number for a choice": (["budget=1000"], ["budget=1000 is unknown; valid: 100k", "budget.relus=1000"]),
    "another program's word": (["debug=default"], ["debug=default is unknown; give scale=debug"]),
    "an empty word": ([""], ["an empty word was given"]),
    "null for a choice": (["method/search=null"], ["method/search=null is unknown; valid: autorep", "snl"]),
    "a number among choices": (["scale=debug,5"], ["scale=5 is unknown; valid: debug, demo"]),
    "unknown choice": (["method=snail"], ["method=snail is unknown; valid: ", "random", "snl"]),
    "unknown key": (["method.teacher.lerning_rate=1"], ["lerning_rate=1'; valid: method.teacher.epochs=, "]),
    "key of another choice": (["method/finetune=retrain", "method.finetune.schedule=cosine"], ["finetune.warmup="]),
    "key of no class": (["allocation=sites", "+allocation.nosuch=1"], ["allocation (FewerSites): ", "'nosuch'"]),
    "key of no fit": (["replacement=affine", "+replacement.nosuch=1"], ["replacement (Affine): ", "'nosuch'"]),
    "weight below zero": (["replacement=quadratic", "replacement.error_weight=-1"], ["error_weight=-1: must be a"]),
    "unknown selection": (["method.finetune.selection=newest"], ["finetune.selection=newest", "best, last, test"]),
    "no hold-out to select on": (["dataset.holdout=0"], ["selection=best", "dataset.holdout=0"]),
    "missing data folder": (["dataset=cifar10", "dataset.root=/nowhere"], ["/nowhere"]),
    "missing mandatory value": (["dataset=image_folder"], ["dataset.image_size and dataset.root must be given"]),
    "unknown logger": (["logger.name=tensorboard"], ["logger.name=tensorboard", "csv, wandb, none"]),
    "unknown precision": (["trainer.precision=fp8"], ["trainer.precision=fp8", "auto, 32, bf16"]),
    "seed nonsense": (["seed=x"], ["seed=x", "integer"]),
    "seed of too many digits": (["seed=99999999999999999999"], ["seed=99999999999999999999: must be an integer >= 0"]),
    "threads that no machine has": (["trainer.threads=100000"], ["trainer.threads=100000: must be less than"]),
    "no output": (["output="], ["output=: must not be empty"]),
    "null output": (["output=null"], ["output=null: must be a text"]),
    "no key": (["=3"], ["must be a string or a list"]),
    "a flag of --cfg": (["--resolve"], ["--resolve", "--cfg"]),
    "unknown progress": (["trainer.progress=loud"], ["trainer.progress=loud", "auto, bar, lines, none"]),
    "unknown convolutions": (["trainer.convolutions=fft"], ["trainer.convolutions=fft", "auto, torch, winograd"]),
    "winograd in bf16": (["trainer=bf16", "trainer.convolutions=winograd"], ["convolutions=winograd", "precision=32"]),
    "unknown compile": (["trainer.compile=maybe"], ["trainer.compile=maybe", "auto, true, false, reduce-overhead"]),
    "keys of another class": (["+method.teacher.lasso=1"], ["method.teacher.lasso: Classifier does not take it"]),
    "one milestone": (
        ["method.teacher.milestones=0.5"],
        ["method.teacher.milestones=0.5: must be a list of fractions of the epochs, such as [0.5,0.75]"],
    ),
    "milestones without any": (
        ["method.finetune.schedule=milestones"],
        ["method.finetune.schedule=milestones: needs method.finetune.milestones, such as ++method.finetune.milestones"],
    ),
    "keys without a use": (
        ["+method.search.weight_decay=5e-4"],
        ["method.search.weight_decay: SNLSearch does not use it; leave it out"],
    ),
    "keys of cycles": (
        ["method.finetune._target_=relinearize.methods.retrain.Retrain", "method.finetune.schedule=cosine"],
        ["method.finetune.schedule: Retrain does not use it; leave it out"],
    ),
    "several devices": (["trainer.devices=7"], ["teacher.batch_size=60", "trainer.devices=7", "multiple of 7", "56"]),
    "devices for a small batch": (["trainer.devices=10"], ["method.teacher.batch_size=60", "at least 80"]),
    "no devices": (["trainer.devices=0"], ["trainer.devices=0: must be an integer >= 1"]),
    "devices in words": (["trainer.devices=auto"], ["trainer.devices=auto: must be an integer >= 1"]),
    "unknown accelerator": (["trainer.accelerator=tpu"], ["trainer.accelerator=tpu", "cpu, cuda"]),
    "no teacher file": (["teacher.weights=/nowhere.pt"], ["teacher.weights=/nowhere.pt"]),
    "syntax": (["budget.fraction"], ["budget.fraction"]),
    "bad grid": (["budget.grid=[9999]"], ["9999", "2,304"]),
    "a text for tags": (["logger=wandb", "logger.tags=a"], ["logger.tags=a: must be a list of texts, such as [a,b]"]),
    "no hold-out for the last stage": (
        ["dataset.holdout=0", "method.teacher.selection=last"], ["finetune.selection=best", "dataset.holdout"],
    ),
    "no lasso": (["method.search.lasso=0"], ["method.search.lasso"]),
    "unknown schedule": (["method.finetune.schedule=linear"], ["method.finetune.schedule"]),
    "batches of one": (["method.finetune.batch_size=1"], ["method.finetune", "batch_size"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RUN_ERRORS)
def test_user_errors_are_one_line_before_any_training(typed, no_training, case):
    overrides, words = RUN_ERRORS[case]
    status, _, err = typed("run", *QUICK, *SEARCH, *overrides)
    lines = [line for line in err.splitlines() if not line.startswith("snl-resnet8")]  # what is about to be run
    assert status == 1, err
    assert len(lines) == 1, err
    assert lines[0].startswith("relinearize: error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["evaluate", "run=/nowhere"], "record.json is missing"),
        (["evaluate"], "run=FOLDER"),
        (["evaluate", "runs=x"], "runs=x"),
        (["report"], "FOLDER"),
        (["report", "/nowhere"], "/nowhere"),
        (["report", "."], "record.json"),
        (["report", ".", "published=no"], "published=no: must be true or false"),
        (["report", "published=false"], "FOLDER"),
        (["report", ".", "preset=spdz"], "preset=spdz is unknown; valid: "),
        (["report", ".", "-x"], "report does not know '-x'"),
        (["count", "backbone.width=-1"], "width"),
        (["count", "backbone=lenet"], "lenet"),
        (["count", "dataset.mean=5"], "dataset.mean=5: must be a list"),
        (["count", "backbone._target_=no.such"], "backbone._target_=no.such is no class and no function"),
        (["count", "trainer=null"], "trainer=null is unknown; valid: bf16, default"),
        (["evaluate", "run=/nowhere", "evaluation=null"], "evaluation=null is unknown; valid: clean, robust"),
        (["infer", "bundle=/nowhere", "network=null"], "network=null: must be loopback, lan, wan"),
    ],
)
def test_errors_of_the_other_commands_are_one_line(typed, arguments, word):
    status, _, err = typed(*arguments)
    assert status == 1 and len(err.splitlines()) == 1, err
    assert err.startswith("relinearize: error: ") and word in err


def test_version_usage_and_unknown_commands(typed):
    status, out, _ = typed("--version")
    assert status == 0 and out.startswith("relinearize 0.")
    status, out, _ = typed("--help")
    assert status == 0 and all(name in out for name in ("run", "status", "report", "count", "evaluate"))
    status, out, err = typed()
    assert status == 2 and not out and "usage:" in err
    status, _, err = typed("train")
    assert status == 2 and "unknown command train; valid: run, status, report, count, evaluate" in err


def test_config_is_shown_without_importing_torch():
    program = (
        "import sys; from relinearize.cli import main; sys.argv = ['relinearize', 'run', '--cfg', 'job', 'seed=7']; "
        "main(); heavy = {'torch', 'pytorch_lightning', 'sklearn', 'matplotlib', 'wandb'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = shell([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    assert "seed: 7" in done.stdout and "_target_: relinearize.methods.snl.SNLSearch" in done.stdout


def test_help_of_a_run_has_every_key_with_its_comment_and_every_group(typed):
    status, out, _ = typed("run", "-m", "--help", "backbone=resnet18", "method=snl,random")
    assert status == 0
    for words in (
        "seed: 0 # initial weights",
        "# backbone=resnet18; valid: ",
        "method.search.lasso",
        "trainer.threads: ",
    ):
        assert words in out
    assert "_target_: relinearize" not in out and "hydra" not in out


def test_count_prints_each_site_and_both_totals(typed):
    status, out, _ = typed("count", "dataset=cifar10", "backbone=resnet18")
    assert status == 0
    assert "557,056" in out and "491,520" in out and "layer4.1" in out and "65,536" in out


def test_grid_and_name_of_a_multirun():
    arguments = with_budget_grid(["-m", "budget.fraction=0.5,0.25", "seed=1,2"])
    assert arguments[-1] == "budget.grid=[0.5,0.25]"
    assert with_budget_grid(["-m", "budget.fraction=1e-2,5e-2"])[-1] == "budget.grid=[0.01,0.05]"
    assert with_budget_grid(["-m", "budget=100k,50k"])[-1] == "budget.grid=[100k,50k]"
    assert with_budget_grid(["-m", "budget=half,tenth,all,default"])[-1] == "budget.grid=[0.5,0.1,1.0]"
    assert with_budget_grid(["-m", "budget.relus=37_000,1e4"])[-1] == "budget.grid=[37_000,1e4]"
    assert with_budget_grid(["-m", "experiment=sweep/frontier", "budget.fraction=0.1"])[-1] == "budget.grid=[0.1]"
    for same in (
        ["budget=100k"],
        ["-m", "seed=1,2"],
        ["-m", "budget=1k,2k", "budget.grid=[3k]"],
        ["-m", "budget=1k,2k", "method.search.rungs=${budget.grid}"],
    ):
        assert with_budget_grid(same) == same


def test_a_multirun_is_named_by_its_start_unless_it_has_a_name(monkeypatch, typed):
    for arguments, named in ((["seed=1"], False), (["-m", "seed=1,2"], True)):
        monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
        name_sweep(arguments)
        assert (SWEEP_VARIABLE in os.environ) == named
    assert os.environ[SWEEP_VARIABLE].startswith("2")
    monkeypatch.setenv(SWEEP_VARIABLE, "mine")
    name_sweep(["-m"])
    assert os.environ[SWEEP_VARIABLE] == "mine"
    _, out, _ = typed("run", "experiment=demo", "--cfg", "job")
    assert "sweep: demo" in out


@pytest.mark.slow
def test_failing_job_of_a_multirun_leaves_the_others_running(typed, tmp_path):
    overrides = ["method.teacher.learning_rate=1e20,0.05", "-m", "method=random", f"output={tmp_path}"]
    status, _, err = typed("run", *QUICK, *overrides)
    assert status == 1
    assert "job 0 failed: the loss of stage teacher became NaN" in err
    assert err.splitlines()[-1].startswith(
        "relinearize: error: 1 of 2 runs are not done; job 0: the loss of stage teacher"
    )
    assert "Traceback" not in err
    ((path, _),) = find_records([tmp_path / "sweeps"])
    assert path.parent.name == "1"


def test_run_report_and_evaluate_as_a_newcomer_types_them(typed, tmp_path, undrawn):
    status, out, err = typed("run", *QUICK, *SEARCH, "budget.fraction=0.6", f"output={tmp_path}")
    assert status == 0, err
    record = Path(out.splitlines()[-1])
    assert record.is_file() and record.name == "record.json"
    assert "1,382" in out
    assert trained_epochs(tmp_path)
    status, out, err = typed("evaluate", f"run={record.parent}")
    assert status == 0 and "1,382" in out, err
    status, out, err = typed("report", tmp_path / "runs")
    assert status == 0, err
    assert all((tmp_path / "runs" / name).is_file() for name in ("pareto.csv", "pareto.png", "report.html"))


@pytest.mark.slow
def test_interrupted_run_says_how_to_go_on(typed, tmp_path, monkeypatch):
    steps, real = itertools.count(1), Stage.training_step

    def step(stage, *arguments):
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return real(stage, *arguments)

    monkeypatch.setattr(Stage, "training_step", step)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        status, _, err = typed("run", *QUICK, *SEARCH, f"output={tmp_path}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    assert err.splitlines()[-1].endswith("the same command goes on from the last checkpoint")


@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_a_reader_who_leaves_is_no_error(unbuffered):
    """`relinearize infer --help | head -1`, where head is gone before anything is written."""
    command = [sys.executable, "-m", "relinearize", "infer", "--help"]
    own = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, "")


# ---- start-up --------------------------------------------------------------------------------------------------------

SLOW_TO_IMPORT = {
    "pytorch_lightning", "wandb", "torchattacks", "matplotlib", "scipy", "sklearn", "torchvision", "pandas",
}  # fmt: skip


def imported(*commands):
    """The packages that are imported once the commands, lists of words, have ended one after the other."""
    program = """
import json, sys
from relinearize.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["relinearize", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
print(*{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    done = shell([sys.executable, "-c", program, json.dumps(commands)])
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_help_is_shown_without_torch_and_other_large_packages():
    """Of every command; in one process, whose start takes longer than a help."""
    commands = ["evaluate", "export", "cost", "infer", "report", "status", "run"]
    assert not imported(*([command, "--help"] for command in commands)) & (SLOW_TO_IMPORT | {"torch"})


@pytest.mark.slow
def test_count_imports_torch_and_no_other_large_package():
    packages = imported(["count", "backbone=resnet8"])
    assert "torch" in packages and not packages & SLOW_TO_IMPORT


@pytest.mark.parametrize(
    ("typed_word", "meant"),
    [
        ("output=~/a,~/b", "output=HOME/a,HOME/b"), ("teacher.weights=~/net.pt", "teacher.weights=HOME/net.pt"),
        ("output=007", "output='007'"), ("sweep=20240601", "sweep='20240601'"), ("+sweep=1,b", "+sweep='1',b"),
        ("dataset.title=true", "dataset.title='true'"), ("sweep=null", "sweep=null"), ("~sweep", "~sweep"),
        ("method.teacher.epochs=1e1", "method.teacher.epochs=10"), ("budget.relus=5e4,1e3", "budget.relus=50000,1000"),
        ("seed=1", "seed=1"), ("method.teacher.learning_rate=1e-3", "method.teacher.learning_rate=1e-3"),
        ("-m", "-m"), ("a=b=~", "a=b=~"), ("output=a=b", "output='a=b'"), ("store=é(1)", "store='é(1)'"),
        ("dataset.title=[a]", "dataset.title='[a]'"), ("store='é'", "store='é'"), ("output=it's", r"output='it\'s'"),
        ("output=${store}", "output=${store}"), ("method.search.file=é=3.ckpt", "method.search.file='é=3.ckpt'"),
        ("method.search.first.file=1e5", "method.search.first.file='1e5'"),
        ("allocation.sensitivity.file=7", "allocation.sensitivity.file='7'"),
        ('dataset.title="A, (b), c"', 'dataset.title="A, (b), c"'), ("score=f(x)", "score=f(x)"),
    ],
)  # fmt: skip
def test_words_are_read_as_they_are_meant(monkeypatch, typed_word, meant):
    monkeypatch.setenv("HOME", "HOME")
    assert as_meant(with_home(typed_word)) == meant


@pytest.mark.slow
def test_files_in_the_users_folder_do_not_stand_for_pythons_own(tmp_path):
    for name in ("profile", "statistics", "yaml", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not me')")
    done = shell([Path(sys.executable).parent / "relinearize", "count"], cwd=tmp_path)
    assert done.returncode == 0 and "total" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_finds_the_users_classes_and_no_more_in_their_folder(tmp_path, launcher):
    (tmp_path / "profile.py").write_text("raise SystemExit('not me')")
    (tmp_path / "mine.py").write_text("from relinearize.backbones import build_backbone as Net")
    words = [f"launcher={launcher}", "backbone._target_=mine.Net", "method=random", "scale=debug", "seed=1"]
    done = shell([Path(sys.executable).parent / "relinearize", "run", "-m", *words, "budget=tenth"], cwd=tmp_path)
    assert done.returncode == 0 and "1 done" in done.stdout, done.stdout + done.stderr
    assert len(find_records(tmp_path.glob("outputs/**/sweeps/*"))) == 1


@pytest.mark.slow
def test_paths_are_relative_to_where_the_command_was_typed(typed, tmp_path):
    """Also where Hydra changes the folder for each job."""
    words = ("scale=debug", "method=random", "budget=tenth", "hydra.job.chdir=true", "output=out/2024")
    status, out, err = typed("run", *words)
    assert status == 0 and (tmp_path / out.strip().splitlines()[-1]).is_file(), err
    status, _, err = typed("run", "-m", *words, "seed=1,2")
    assert status == 0 and len(list(tmp_path.glob("out/2024/runs/*/record.json"))) == 3, err
    assert len(list(tmp_path.glob("out/2024/store/teacher/[!.]*"))) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2024"]


def test_overrides_may_stand_on_both_sides_of_flags():
    words = ["seed=1", "--config-dir", "conf", "budget=tenth", "-m", "--cfg", "job", "method=snl"]
    assert flags_first(words) == ["--config-dir", "conf", "-m", "--cfg", "job", "seed=1", "budget=tenth", "method=snl"]


@pytest.mark.slow
def test_a_closed_output_is_no_error():
    done = shell(["bash", "-c", f"{Path(sys.executable).parent / 'relinearize'} infer --help >&-"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("way", "words"),
    [("out", []), ("out/store", []), ("out/runs", []), ("out", ["-m", "seed=1,2"])],
    ids=["output", "store", "runs", "output of a sweep"],
)
def test_a_file_in_the_way_is_one_line(typed, tmp_path, no_training, way, words):
    (tmp_path / way).parent.mkdir(exist_ok=True)
    (tmp_path / way).touch()
    status, out, err = typed("run", *words, "output=out", "scale=debug", "method=random", "budget=tenth", "logger=none")
    assert status == 1 and out == ""
    *_, line = err.splitlines()
    assert err.count("error") == 1 and line.startswith("relinearize: error: ") and "output=, store=" in line
    assert f"{way}" in line


def test_a_damaged_config_file_is_named(typed, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "broken.yaml").write_text("seed: [1\n")
    status, _, err = typed("run", "--config-dir", "mine", "experiment=broken")
    assert status == 1 and err.count("\n") == 1 and "ParserError" in err and "broken.yaml" in err and "line 1" in err


def test_an_unknown_key_beside_a_choice_of_ones_own_is_one_line(typed, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 3\n")
    status, _, err = typed("run", "--config-dir", "mine", "experiment=own", "sede=1")
    assert status == 1 and err.count("\n") == 1 and "sede" in err


@pytest.mark.slow
def test_keys_of_an_experiment_that_nothing_knows_are_refused(typed, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    words = ["run", "--config-dir", "mine", "experiment=own", "method=random", "scale=debug", "output=out"]
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.write_text("# @package _global_\nsede: 1\n")
    status, _, err = typed(*words)
    assert status == 1 and "sede=1: no such key, and no other key refers to it; did you mean seed?" in err
    for key, near in (
        ("trainer.device", "; did you mean trainer.devices?"),
        ("logger.nosuch", ""),
        ("method.nosuch", ""),
        ("allocation.nosuch", ""),
        ("replacement.nosuch", ""),
        ("dataset.holdot", "; did you mean dataset.holdout?"),
    ):
        status, _, err = typed("run", "method=random", "scale=debug", "output=out", f"+{key}=1")
        assert status == 1 and err.endswith(f"{key}=1: no such key, and no other key refers to it{near}\n"), err
    own.write_text("# @package _global_\nsee: 1\nseedling: 3\nseed: ${seedling}\n")  # `see` begins like a key in use
    status, _, err = typed(*words)
    assert status == 1 and "see=1: no such key" in err
    own.write_text("# @package _global_\nmine: 3\nseed: ${mine}\n")
    status, out, err = typed(*words)
    assert status == 0 and "-s3-" in out, err


@pytest.mark.slow
def test_an_impossible_budget_of_a_sweep_fails_its_own_job_alone(typed):
    status, _, err = typed("run", "budget.grid=[50k]", "output=out")
    assert status == 1 and "budget.grid: 50k is more than" in err
    status, out, _ = typed("run", "-m", "method=random", "scale=debug", "budget.relus=50k,10", "output=out")
    assert status == 1 and "1 done, 1 failed" in out


def test_a_folder_that_is_gone_is_one_line(typed, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, _, err = typed("count")
    assert (status, err) == (1, "relinearize: error: the folder in which this was typed does not exist any more\n")


@pytest.mark.parametrize("words", [[], ["backbone.width=8,16", "-m"]], ids=["one", "several"])
def test_count_leaves_no_folder(typed, tmp_path, words):
    status, out, _ = typed("count", *words)
    assert status == 0 and out.count(" on Digits") == max(1, len(words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["budget=37000", "seed=1,2"], "37000"), (["budget=nosuch,50k"], "nosuch"), (["seed=1,2", "seeed=3"], "seeed"),
        (["seed=1,(2"], "seed=1,(2"), (["seeed=1,2"], "seeed"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_composed_leaves_no_folder(typed, tmp_path, words, named):
    status, _, err = typed("run", "-m", *words)
    assert status == 1 and err.count("\n") == 1 and err.startswith("relinearize: error: ") and named in err
    assert list(tmp_path.iterdir()) == []
    assert "none in outputs" in typed("status")[2]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("from torch import nn\n\nx = (", "SyntaxError: '(' was never closed ({file}, line 3)"),
        ("\nimport nowhere", "ModuleNotFoundError: No module named 'nowhere' ({file}, line 2)"),
        ("import math\n\nmath.sqrt(-1)", "ValueError: math domain error ({file}, line 3)"),
    ],
)
@pytest.mark.parametrize("key", ["backbone._target_", "+callbacks.own._target_"])
def test_a_users_module_that_cannot_be_imported_is_named_with_the_line(
    typed, tmp_path, no_training, key, source, problem
):
    """Also one that the named module imports."""
    (tmp_path / "broken.py").write_text(source)
    (tmp_path / "mine.py").write_text("import broken")
    status, _, err = typed("run", f"{key}=mine.Net")
    problem = problem.format(file=tmp_path / "broken.py")
    assert (status, err) == (1, f"relinearize: error: {key.lstrip('+')}=mine.Net cannot be imported: {problem}\n")


def test_a_users_class_needs_no_keys_that_mean_nothing_to_it(typed, tmp_path):
    (tmp_path / "own_nets.py").write_text(
        "from relinearize.backbones import build_backbone\n"
        "def net(classes, image_size, channels, width, convention):\n"
        "    return build_backbone('resnet8', classes=classes, image_size=image_size, channels=channels)\n"
        "def narrow(classes): ...\n"
    )
    assert typed("count", "backbone._target_=own_nets.net")[0] == 0
    status, _, err = typed("count", "backbone._target_=own_nets.narrow")
    assert status == 1 and "backbone._target_=own_nets.narrow cannot be called: got an unexpected keyword" in err

"""The `trainer` and `callbacks` groups: what reaches pl.Trainer, what is refused, and what is part of a key."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from quick_runs import assert_same_tensors, composed, lasting, quick_plan, quick_run, tensors
from small_stages import pixel_network
from torch._dynamo.exc import BackendCompilerFailed

from relinearize import machine
from relinearize.errors import UserError
from relinearize.methods.stage.stage import Stage
from relinearize.methods.teacher import Classifier
from relinearize.runs.pipeline import check_stages
from relinearize.targets import NEUTRAL_ARGUMENTS
from relinearize.training import settings
from relinearize.training.fit import fit
from relinearize.training.settings import RESERVED, TrainerSettings, trainer_parameters

SHORT = ["budget.fraction=0.5", "method.teacher.epochs=2", "method.finetune.epochs=0", "trainer.convolutions=torch"]
CLIP = "+trainer.lightning.gradient_clip_val"
WATCH = "+callbacks.watch._target_=test_settings.Watch"


class Watch(pl.Callback):
    """Notes the arguments that Lightning's Trainer was given, and logs."""

    seen: list = []  # noqa: RUF012

    def on_train_batch_end(self, trainer, stage, *_):
        stage.log("watched", float(trainer.global_step))

    def on_train_end(self, trainer, stage):
        self.seen.append((stage.name, trainer.gradient_clip_val, trainer.accumulate_grad_batches, trainer.global_step))


class NoCallback:
    pass


class ModelSummary(pl.Callback):
    pass


@pytest.fixture(autouse=True)
def seen():
    Watch.seen.clear()
    return Watch.seen


def test_arguments_reach_lightnings_trainer_and_callbacks_are_called(tmp_path, seen):
    values = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "log_every_n_steps": 1}
    given = [f"+trainer.lightning.{key}={value}" for key, value in values.items()]
    quick_run(tmp_path, *SHORT, *given, WATCH, method="random")
    # 180 images in batches of 60, two epochs: a step after the second batch and one after the last.
    assert seen == [("teacher", 0.5, 2, 4)]
    (metrics,) = tmp_path.glob("store/teacher/*/lightning/version_0/metrics.csv")
    assert metrics.read_text().startswith("epoch,step,watched")


def test_a_machine_without_a_compiler_is_told_so(tmp_path, monkeypatch):
    failure = BackendCompilerFailed("inductor", RuntimeError("Failed to find C compiler.\n  Install one."), None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr(Classifier, "loss", lambda *_: raised(failure))
    message = (
        r"stage teacher: torch.compile failed \(Failed to find C compiler. Install one.\); give trainer.compile=false"
    )
    with pytest.raises(UserError, match=message):
        quick_run(tmp_path, *SHORT, "trainer.compile=true", method="random")
    with pytest.raises(BackendCompilerFailed):  # of a network that compiles itself
        quick_run(tmp_path, *SHORT, "trainer.compile=false", method="random")


def raised(error):
    raise error


def test_clipped_gradients_give_other_weights_and_callbacks_that_watch_the_same(tmp_path):
    plain, clipped, watched = (
        tensors(quick_run(tmp_path / name, *SHORT, *more, method="random")[1])
        for name, more in (("plain", []), ("clip", [f"{CLIP}=0.01"]), ("watch", [WATCH]))
    )
    assert all(value.equal(watched[name]) for name, value in plain.items())
    assert not plain["conv1.weight"].equal(clipped["conv1.weight"])


@pytest.mark.parametrize(
    ("given", "benchmark"),
    [({}, True), ({"deterministic": True}, False), ({"deterministic": "warn"}, False), ({"benchmark": False}, False)],
)
def test_on_cuda_the_fastest_algorithms_are_tried_but_where_they_are_to_be_deterministic(
    tmp_path, monkeypatch, given, benchmark
):
    found = {}

    def no_trainer(**arguments):
        found.update(arguments)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(pl, "Trainer", no_trainer)
    network = pixel_network("resnet8", 2, 8)
    stage = Classifier(network, epochs=1, batch_size=2, learning_rate=0.1)
    with pytest.raises(RuntimeError, match="no GPU"):
        fit(
            stage,
            TrainerSettings(accelerator="cuda", precision="32", compile=False, lightning=given, callbacks={}),
            tmp_path / "last.ckpt",
        )
    assert found["benchmark"] is benchmark


def test_gradients_are_clipped_in_bf16_too_and_in_jobs_of_many_tasks(tmp_path, monkeypatch):
    """bf16 is what a GPU trains in. A job of Slurm with `-n 8` whose script does not call srun is one process."""
    for name, value in {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    plain, clipped = (
        tensors(quick_run(tmp_path / value, *SHORT, "trainer.precision=bf16", f"{CLIP}={value}", method="random")[1])
        for value in ("1e9", "0.01")
    )
    assert not plain["conv1.weight"].equal(clipped["conv1.weight"])


def test_the_report_of_a_profiler_is_shown(tmp_path, caplog):
    caplog.set_level("INFO", logger="pytorch_lightning.profilers")
    quick_run(tmp_path, *SHORT, "trainer.lightning.profiler=simple", method="random")
    assert "Profiler Report" in caplog.text and "optimizer_step" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("+trainer.lightning.max_epochs=3", r"^trainer\.lightning\.max_epochs .*use method\.STAGE\.epochs$"),
        ("+trainer.lightning.logger=true", r"^trainer\.lightning\.logger .*use the logger group$"),
        ("trainer.lightning=3", r"^trainer\.lightning=3: must hold arguments"),
        ("+trainer.lightning.clip=1", r"^trainer\.lightning\.clip is no argument .*gradient_clip_val"),
        (
            "+trainer.lightning.gradient_clip_algorithm=x",
            r"^trainer\.lightning or callbacks: .*gradient_clip_algorithm",
        ),
        ("trainer.lightning.profiler=mine", r"^trainer\.lightning or callbacks: .*profiler.*simple"),
        ("+callbacks.mine._target_=nowhere.Callback", r"^callbacks\.mine\._target_=nowhere\.Callback is no class"),
        ("+callbacks.mine._target_=test_settings.NoCallback", r"^callbacks\.mine\._target_=.* is no .*Callback$"),
        ("+callbacks.mine=3", r"^callbacks\.mine has no _target_"),
        (
            "+callbacks.ema._target_=pytorch_lightning.callbacks.EMAWeightAveraging",
            r"^callbacks\.ema: it averages weights",
        ),
        (
            "+callbacks.save._target_=pytorch_lightning.callbacks.OnExceptionCheckpoint +callbacks.save.dirpath=there",
            r"^callbacks\.save: Lightning would begin later stages from its file",
        ),
        ("+callbacks.bar._target_=pytorch_lightning.callbacks.RichProgressBar", r"^trainer\.lightning or callbacks: "),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_trains(tmp_path, given, message):
    with pytest.raises(UserError, match=message) as error:
        quick_plan(tmp_path, *given.split())
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def plain():
    return quick_plan("anywhere")


def test_every_argument_of_lightnings_trainer_is_known_or_passed_on():
    assert set(RESERVED) | NEUTRAL_ARGUMENTS <= set(trainer_parameters())


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ("trainer.lightning=null", False),
        ("trainer.lightning.profiler=simple", False),
        ("trainer.lightning.detect_anomaly=true", False),
        ("callbacks=device_stats", False),
        ("callbacks=model_summary", False),
        ("callbacks=[model_summary,device_stats]", False),
        ("+trainer.lightning.accumulate_grad_batches=1", False),  # Lightning's default
        ("+trainer.lightning.accumulate_grad_batches=2", True),
        ("+trainer.lightning.gradient_clip_val=1.0", True),
        ("+trainer.lightning.limit_train_batches=2", True),
        (WATCH, True),  # who knows what it does
        ("+callbacks.mine._target_=test_settings.ModelSummary", True),  # one's own of Lightning's name
    ],
)
def test_what_can_change_a_result_is_in_every_key(tmp_path, plain, given, changes):
    other = quick_plan(tmp_path, given)
    for stage in ("teacher", "search", "finetune", "run"):
        assert (getattr(plain, stage).key != getattr(other, stage).key) is changes


def test_the_yaml_files_list_the_defaults_of_the_class():
    config = composed("unused")
    given = {key: value for key, value in config.trainer.items() if key not in ("accelerator", "progress")}
    assert TrainerSettings.resolve(**given, accelerator="cpu", progress="none") == TrainerSettings.resolve(
        accelerator="cpu", progress="none"
    )


@pytest.mark.parametrize(
    ("cores", "allowed", "slurm", "load", "expected"),
    [
        (2, 2, None, 0.4, 2),
        (2, 2, None, 1.3, 1),  # another busy process: two threads would wait for each other
        (8, 8, None, 40.0, 1),
        (64, 4, None, 40.0, 4),  # the load is that of the whole machine, most of which is not ours
        (64, 64, 6, 40.0, 6),
        (64, 64, None, 40.0, 24),
    ],
)
def test_auto_takes_as_many_threads_as_cores_are_free(monkeypatch, cores, allowed, slurm, load, expected):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(machine, "CPU_QUOTA", Path("/none"))
    monkeypatch.setattr(machine, "LOADS", Path("/none"))
    monkeypatch.setattr(settings, "torch_threads", lambda: 128)
    machine.free_cores.cache_clear()
    if slurm:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(slurm))
    assert settings.resolve_threads("auto") == expected
    monkeypatch.setattr(settings, "torch_threads", lambda: 1)  # OMP_NUM_THREADS=1
    assert settings.resolve_threads("auto") == 1
    assert settings.resolve_threads(3) == 3 and settings.resolve_threads(None) is None
    machine.free_cores.cache_clear()


def test_what_has_just_ended_and_former_runs_of_a_sweep_take_no_threads(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (15.9, 8.0, 4.0))
    monkeypatch.setattr(machine, "LOADS", tmp_path / "loadavg")
    machine.LOADS.write_text("15.90 8.00 4.00 4/80 11206\n")
    machine.free_cores.cache_clear()
    assert machine.free_cores() == 13
    machine.LOADS.write_text("15.90 15.90 4.00 17/80 11206\n")
    assert machine.free_cores() == 13
    machine.free_cores.cache_clear()


def test_every_segment_ends_with_a_step_of_accumulated_gradients(tmp_path, monkeypatch):
    """Four batches an epoch in parts of 2, 1 and 1, two batches a step."""
    steps, real = [], Stage.on_before_optimizer_step
    monkeypatch.setattr(Stage, "on_before_optimizer_step", lambda stage: steps.append(stage.name) or real(stage))
    words = ["+method.finetune.segments=3", "method.finetune.batch_size=50", "budget.fraction=0.5"]
    words += ["method.finetune.epochs=2", "+trainer.lightning.accumulate_grad_batches=2"]
    quick_run(tmp_path, *words, method="random")
    assert steps.count("finetune") == 3 * 2


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([(8, 0)], "bf16"), ([(7, 0)], "32"), ([(9, 0), (7, 5)], "32"), ([(9, 0)] * 2, "bf16")],
)
def test_auto_takes_bf16_where_all_gpus_compute_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device])
    assert TrainerSettings.resolve(accelerator="auto").precision == expected
    assert TrainerSettings.resolve(accelerator="cuda", precision="32").precision == "32"
    for name in ("device_count", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: pytest.fail("a GPU is woken up"))
    assert TrainerSettings.resolve(accelerator="cpu").precision == "32"


class Meddle(pl.Callback):
    rates, clips = [], []

    def on_train_epoch_start(self, trainer, module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        module.clip = 1e-9
        self.clips.append((module.stage.clip, module.stage.name))


def test_callbacks_see_the_rate_of_the_epoch_and_set_what_is_the_stages(tmp_path):
    words = [
        "+callbacks.meddle._target_=test_settings.Meddle",
        "method.finetune.schedule=cosine",
        "budget.fraction=0.5",
    ]
    record, _ = quick_run(tmp_path, *words, "method.finetune.epochs=3", method="random")
    assert Meddle.rates[-3:] == pytest.approx([row["lr"] for row in record.stages["finetune"].history])
    assert Meddle.clips[-1] == (1e-9, "finetune")


STOP = ["+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping", "+callbacks.stop.mode=max"]


def test_early_stopping_monitors_what_is_validated(tmp_path):
    """Nothing is better by 1,000 points, so that each stage ends after its second epoch."""
    settings = [*STOP, "+callbacks.stop.monitor=val/accuracy", "+callbacks.stop.min_delta=1000"]
    record, _ = quick_run(tmp_path, *settings, "+callbacks.stop.patience=1", "budget.fraction=0.5", method="random")
    assert [record.stages[name].epochs for name in ("teacher", "finetune")] == [2, 2]
    with pytest.raises(UserError, match=r"^callbacks\.stop: method\.search has 3 segments .*strict=false"):
        check_stages(quick_plan(tmp_path, *settings))
    with pytest.raises(UserError, match="in stage teacher: Early stopping conditioned on metric `nothing`"):
        quick_run(tmp_path, *STOP, "+callbacks.stop.monitor=nothing", "budget.fraction=0.5", method="random")


def test_early_stopping_counts_on_where_a_run_goes_on(tmp_path, run_in_pieces):
    """The best epoch of a stage, and how many since were no better, are in its checkpoints."""
    words = [*STOP, "+callbacks.stop.monitor=val/accuracy", "+callbacks.stop.min_delta=1000", "budget.fraction=0.5"]
    words += ["+callbacks.stop.patience=2", "method.teacher.epochs=6", "method.finetune.epochs=6"]
    whole, folder = quick_run(tmp_path / "whole", *words, method="random")
    pieces, again = run_in_pieces(4, tmp_path / "pieces", *words, method="random")
    assert [record.stages["teacher"].epochs for record in (whole, pieces)] == [3, 3]
    assert [record.stages["finetune"].epochs for record in (whole, pieces)] == [3, 3]
    assert_same_tensors(again, folder)
    assert lasting(pieces) == lasting(whole)


@pytest.mark.parametrize(("most", "expected"), [("max", 2048), ("1500", 1500 - 900 + 300), ("500", 0)])
def test_memory_that_the_system_caches_files_in_is_free(monkeypatch, tmp_path, most, expected):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 2 kB\n")
    for name, text in {"max": most, "current": "900", "stat": "anon 500\ninactive_file 300\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "MEMORY_OF_GROUP", tmp_path)
    assert machine.available_memory() == expected
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "none")
    monkeypatch.setattr(machine, "MEMORY_OF_GROUP", tmp_path / "none")
    assert machine.available_memory() == float("inf")


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 8), ("150000 100000", 2), ("100000 100000", 1)])
def test_a_control_groups_quota_counts(monkeypatch, tmp_path, quota, expected):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    assert machine.usable_cores() == expected

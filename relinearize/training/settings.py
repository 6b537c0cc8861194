"""The `trainer` and `callbacks` groups: checked before anything trains, and resolved for this machine."""

import functools
import inspect
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate

from relinearize.convolution import resolve_convolutions
from relinearize.errors import UserError, check_number
from relinearize.machine import free_cores
from relinearize.targets import NEUTRAL_ARGUMENTS, only_watches

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "32", "bf16")
COMPILE = ("auto", True, False, "reduce-overhead")
PROGRESS = ("auto", "bar", "lines", "none")
LISTED = {"profiler": None, "detect_anomaly": False}  # in conf/trainer/default.yaml, with Lightning's own defaults

# Arguments of pl.Trainer that fit() itself gives, and what to use instead of them.
RESERVED = {
    "accelerator": "trainer.accelerator",
    "devices": "trainer.devices",
    "strategy": "trainer.devices",
    "num_nodes": "trainer.devices",
    "precision": "trainer.precision",
    "callbacks": "the callbacks group",
    "logger": "the logger group",
    "enable_progress_bar": "trainer.progress",
    "enable_model_summary": "callbacks=model_summary",
    "enable_checkpointing": "trainer.checkpoint_seconds",
    "max_epochs": "method.STAGE.epochs",
    "min_epochs": "method.STAGE.epochs",
    "max_steps": "method.STAGE.epochs",
    "min_steps": "method.STAGE.epochs",
    "max_time": "a time limit of the job (a stopped run continues)",
    "limit_val_batches": "dataset.holdout",
    "num_sanity_val_steps": "dataset.holdout",
    "val_check_interval": "method.STAGE.epochs (a stage validates after each epoch)",
    "check_val_every_n_epoch": "method.STAGE.epochs (a stage validates after each epoch)",
    "use_distributed_sampler": "trainer.devices",
    "reload_dataloaders_every_n_epochs": "the dataset group",
    "overfit_batches": "dataset.subset",
    "fast_dev_run": "scale=debug",
    "barebones": "trainer.progress=none",
    "plugins": "trainer.precision and trainer.devices",
    "sync_batchnorm": "trainer.devices=1",
}


@dataclass(frozen=True)
class TrainerSettings:
    """How the stages of a run are trained: the keys of conf/trainer/default.yaml and the `callbacks` group.

    `resolve` makes one in which nothing is "auto" any more, but for `progress`.
    """

    accelerator: str = "auto"  # resolved: "cpu" or "cuda"
    precision: str | int = "auto"  # resolved: "32" or "bf16" (autocast)
    devices: int = 1
    channels_last: bool = True
    compile: str | bool = "auto"  # resolved: true or false, or a mode of torch.compile
    convolutions: str = "auto"  # resolved: "torch" or "winograd"
    threads: int | str | None = "auto"  # resolved: an integer, or None for torch's own choice
    checkpoint_seconds: float = 60
    progress: str = "auto"
    lightning: Mapping[str, Any] | None = None  # arguments of pl.Trainer, passed on untouched
    callbacks: Mapping[str, Any] | None = None  # name -> a callback's config, with `_target_`

    @classmethod
    def resolve(cls, **values: Any) -> "TrainerSettings":
        """The settings for this machine, of those that the user gives. UserError names the key that is wrong."""
        given = cls(**values)
        for key, valid in (("compile", COMPILE), ("progress", PROGRESS)):
            if values.get(key, "auto") not in valid:
                raise UserError(f"trainer.{key}={values[key]} is unknown; valid: {', '.join(map(str, valid)).lower()}")
        accelerator = resolve_accelerator(given.accelerator)
        devices = given.devices
        check_number("trainer.devices", devices, ">= 1", integer=True)
        if accelerator == "cuda" and devices > torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise UserError(f"trainer.devices={devices} but torch sees {found} CUDA device(s); give at most {found}")
        precision = resolve_precision(given.precision, accelerator)
        compile = accelerator == "cuda" if given.compile == "auto" else given.compile
        plain = accelerator == "cpu" and precision == "32" and given.channels_last and not compile
        convolutions = resolve_convolutions(given.convolutions, possible=plain)
        lightning = given.lightning or {}
        if not isinstance(lightning, Mapping):
            raise UserError(f"trainer.lightning={lightning}: must hold arguments of pytorch_lightning.Trainer by name")
        settings = replace(
            given,
            accelerator=accelerator,
            precision=precision,
            compile=compile,
            convolutions=convolutions,
            threads=resolve_threads(given.threads),
            lightning={key: value for key, value in lightning.items() if (key, value) not in LISTED.items()},
            callbacks=given.callbacks or {},
        )
        settings._check_lightning()
        return settings

    @property
    def identity(self) -> dict[str, Any]:
        """What of the settings can change a result, for its key. Arguments of pl.Trainer count if not its defaults."""
        identity: dict[str, Any] = {"precision": self.precision, "devices": self.devices}
        if self.devices > 1:
            identity["scores"] = "of all images"  # before, searches that train nothing saw those of one device
            identity["uneven"] = "by images"  # before, the shares of a batch counted alike, whatever their sizes
        arguments = {key: value for key, value in self.lightning.items() if key not in NEUTRAL_ARGUMENTS}
        if arguments:
            defaults = {name: parameter.default for name, parameter in trainer_parameters().items()}
            arguments = {key: value for key, value in arguments.items() if value != defaults[key]}
        callbacks = {name: entry for name, entry in self.callbacks.items() if not only_watches(entry)}
        scheduled = any(entry["_target_"].endswith("GradientAccumulationScheduler") for entry in callbacks.values())
        if "accumulate_grad_batches" in arguments or scheduled:
            identity["steps"] = "of all batches"  # before, a shorter segment ended without its last step
        return (
            identity | ({"lightning": arguments} if arguments else {}) | ({"callbacks": callbacks} if callbacks else {})
        )

    def lightning_arguments(self) -> dict[str, Any]:
        """`trainer.lightning` as keyword arguments of pl.Trainer; entries with a `_target_` are built."""
        return dict(instantiate(dict(self.lightning), _convert_="all")) if self.lightning else {}

    def new_callbacks(self, watching: bool = True) -> list[Any]:
        """A new instance of each entry of the `callbacks` group; `watching`: also those that only watch."""
        entries = [entry for entry in self.callbacks.values() if watching or not only_watches(entry)]
        return [instantiate(dict(entry), _convert_="all") for entry in entries]

    def _check_lightning(self) -> None:
        """Build everything once, so that a mistake is found now and not when the first stage trains."""
        if not self.lightning and not self.callbacks:
            return
        import pytorch_lightning as pl
        from pytorch_lightning.plugins.environments import LightningEnvironment
        from pytorch_lightning.utilities.exceptions import MisconfigurationException

        known = trainer_parameters()
        for key in self.lightning:
            if key in RESERVED:
                raise UserError(f"trainer.lightning.{key} would break resuming or the record; use {RESERVED[key]}")
            if key not in known:
                valid = ", ".join(name for name in known if name not in RESERVED)
                raise UserError(f"trainer.lightning.{key} is no argument of pytorch_lightning.Trainer; valid: {valid}")
        for name, entry in self.callbacks.items():
            if not isinstance(entry, Mapping) or "_target_" not in entry:
                raise UserError(f"callbacks.{name} has no _target_; give callbacks.{name}._target_=MODULE.CLASS")
            try:
                callback = instantiate(dict(entry), _convert_="all")
            except (HydraException, MisconfigurationException, ImportError, TypeError, ValueError) as error:
                raise UserError(f"callbacks.{name} cannot be built: {cause_message(error)}") from error
            if isinstance(callback, pl.callbacks.WeightAveraging | pl.callbacks.StochasticWeightAveraging):
                raise UserError(
                    f"callbacks.{name}: it averages weights behind the selection's back; "
                    "method/finetune=retrain has average_decay"
                )
            if isinstance(callback, pl.callbacks.OnExceptionCheckpoint):
                raise UserError(
                    f"callbacks.{name}: Lightning would begin later stages from its file; "
                    "trainer.checkpoint_seconds saves already"
                )
            if not isinstance(callback, pl.Callback):
                raise UserError(f"callbacks.{name}._target_={entry['_target_']} is no pytorch_lightning.Callback")
        quiet_lightning()
        try:
            quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            quiet["plugins"] = LightningEnvironment()
            pl.Trainer(accelerator="cpu", callbacks=self.new_callbacks(), **quiet, **self.lightning_arguments())
        except (HydraException, MisconfigurationException, ImportError, TypeError, ValueError) as error:
            raise UserError(f"trainer.lightning or callbacks: {cause_message(error)}") from error


def resolve_threads(threads: int | str | None) -> int | None:
    """`auto`: as many torch threads as cores are free, and no more than torch (OMP_NUM_THREADS) would take.

    Beside another busy process, two threads on two cores are several times slower than one: each waits for the other.
    """
    return min(torch_threads(), free_cores()) if threads == "auto" else threads


@functools.cache
def torch_threads() -> int:
    """The number of threads that torch started with."""
    return torch.get_num_threads()


def resolve_accelerator(accelerator: str, key: str = "trainer.accelerator") -> str:
    """ "cuda" or "cpu"; "auto" takes CUDA where there is one. key: what messages call it."""
    if accelerator not in (*ACCELERATORS, "gpu"):
        raise UserError(f"{key}={accelerator} is unknown; valid: {', '.join(ACCELERATORS)}")
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if accelerator == "auto":
        return "cpu"
    raise UserError(f"{key}={accelerator} but torch sees no CUDA device; valid here: auto, cpu")


def resolve_precision(precision: str | int, accelerator: str) -> str:
    """ "32" or "bf16" (autocast); "auto": bf16 on GPUs that compute in it, 32 elsewhere."""
    if str(precision) not in PRECISIONS:
        raise UserError(f"trainer.precision={precision} is unknown; valid: {', '.join(PRECISIONS)}")
    if str(precision) == "auto":
        if accelerator != "cuda":  # no GPU is woken up
            return "32"
        # NVIDIA's before Ampere emulate it, slowly. All are asked, so that further processes find the same.
        capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
        return "bf16" if torch.version.hip or all(major >= 8 for major, _ in capabilities) else "32"
    return str(precision)


def trainer_parameters() -> Mapping[str, inspect.Parameter]:
    import pytorch_lightning as pl

    parameters = inspect.signature(pl.Trainer.__init__).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def cause_message(error: BaseException) -> str:
    """The message of the first cause: Hydra wraps what a constructor raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def quiet_lightning() -> None:
    """Lightning announces devices and tips at every fit; three fits a run make that noise."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A profiler's report is what the user asked for.
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message=".*srun. command is available.*")  # on a login node, at every fit

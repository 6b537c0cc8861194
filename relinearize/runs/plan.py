"""Everything that is known before the first training step: networks, images, budgets, and the key of each result.

Whatever a user can get wrong is found here, in seconds, and not after the teacher's training.
"""

import copy
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.routes import ROUTES, with_routes
from relinearize.data.datamodule import ImageData
from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.records.store import Artifact, Store
from relinearize.relu.budget import resolve_budget, short_count
from relinearize.relu.mask import relu_total
from relinearize.relu.sites import site_shapes
from relinearize.runs.build import all_relu_network
from relinearize.runs.images import open_images, open_source
from relinearize.runs.sensitivity import SensitivitySource
from relinearize.runs.site_choice import FREE, SiteChoice
from relinearize.tracking.interface import LoggerSettings
from relinearize.training.settings import TrainerSettings

# Part of every key. Raise it when a change of the code changes what the same configuration leads to.
RESULTS_VERSION = 1


def plain(node: Any) -> Any:
    """A resolved config node as plain dicts and lists."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


@dataclass
class Plan:
    """One run, resolved. Keys are hashes of what can change a result and of nothing else (see store.py)."""

    config: DictConfig

    def __post_init__(self) -> None:
        config = self.config
        self.training = TrainerSettings.resolve(**plain(config.trainer), callbacks=plain(config.get("callbacks")))
        self.accelerator, self.precision = self.training.accelerator, self.training.precision
        if self.training.threads:
            torch.set_num_threads(self.training.threads)
        self.logger = LoggerSettings(**plain(config.logger), output=Path(config.output))
        if type(config.seed) is not int or config.seed < 0:
            raise UserError(f"seed={config.seed} is not a seed; give a whole number from 0 on")
        self.seed = config.seed
        self.source = open_source(config)
        self.store = Store(Path(config.store))
        self.all_relu = self.new_network()
        self.total = relu_total(self.all_relu.network)
        self.budget = self._budget(config.budget.relus, config.budget.fraction)
        self.grid = sorted({self.budget, *(self._grid_entry(entry) for entry in config.budget.grid)}, reverse=True)
        self._check_teacher_weights()
        _ = self.routes  # refuses what is impossible
        if self.site_choice is not None:
            self.site_choice.check(self.sizes, self.budget)

    # ---- budgets ---------------------------------------------------------------------------------------------------

    def _budget(self, relus: Any, fraction: Any) -> int:
        if relus is None and fraction is None:
            fraction = 0.5
        return resolve_budget(relus, fraction, self.total)

    def _grid_entry(self, entry: Any) -> int:
        """An entry of budget.grid: up to 1 and not whole a fraction, else a count ("50k")."""
        try:
            return self._budget(None, entry) if isinstance(entry, float) and entry <= 1 else self._budget(entry, None)
        except UserError as error:
            raise UserError(
                f"budget.grid: {str(error).replace('budget.relus=', '').replace('budget.fraction=', '')}"
            ) from None

    @cached_property
    def site_choice(self) -> SiteChoice | None:
        """What culls whole sites; None where every site may keep ReLUs, and for runs of before there was a choice."""
        if self.allocation_settings is None:
            return None
        settings = {key: value for key, value in self.allocation_settings.items() if key != "name"}
        return instantiate(settings, _partial_=True, _convert_="all")()  # in two steps, so that its errors stay ours

    @property
    def allocation_settings(self) -> dict[str, Any] | None:
        """The `allocation` group, None for `free`."""
        settings = plain(OmegaConf.select(self.config, "allocation")) or {"name": FREE}
        return None if settings["name"] == FREE else settings

    @property
    def method_name(self) -> str:
        """method.name, and the allocation if it is not the search's own: snl, snl+sites."""
        name = self.config.method.name
        return name if self.allocation_settings is None else f"{name}+{self.allocation_settings['name']}"

    # ---- networks --------------------------------------------------------------------------------------------------

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (self.source.channels, self.source.image_size, self.source.image_size)

    def new_network(self) -> PixelInput:
        """The all-ReLU network with its initial weights, a function of the seed; every site a MaskedReLU."""
        return all_relu_network(self.config, self.source)

    def new_student(self) -> PixelInput:
        """The network that is searched and fine-tuned; the same but for `backbone.student_skip` (paper parity)."""
        return all_relu_network(self.config, self.source, student=True)

    def stage_network(self, stage: str) -> PixelInput:
        """The network that `stage` trains: with the batch-norm routes of the method where the stage uses them."""
        return self._with_routes(self.new_network() if stage == "teacher" else self.new_student(), stage)

    def teacher_network(self, stage: str) -> PixelInput:
        """The network that takes the teacher's weights for `stage`, with the routes that the stage uses."""
        return self._with_routes(self.new_network(), stage)

    def _with_routes(self, network: PixelInput, stage: str) -> PixelInput:
        if len(self.stage_routes(stage)) > 1:
            network.network = with_routes(network.network, self.stage_routes(stage))
        return network

    def stage_routes(self, stage: str) -> tuple[str, ...]:
        """The batch-norm routes that `stage` trains; one, "clean", unless it uses routes and the method has them."""
        routed = getattr(get_class(self.config.method[stage]["_target_"]), "routed", False)
        return self.routes if routed else ROUTES[1]

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes of `method.routes`."""
        number = self.config.method.get("routes", 1)
        if number not in ROUTES:
            raise UserError(f"method.routes={number} is impossible; valid: {', '.join(map(str, ROUTES))}")
        return ROUTES[number]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return site_shapes(self.all_relu.network)

    @property
    def sizes(self) -> dict[str, int]:
        """Positions of each site."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    # ---- images ----------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> ImageData:
        """The images, loaded when first asked for: a finished run never needs them."""
        return open_images(self.config, self.source, self.accelerator)

    def validation_loader(self, selection: str, **share: int) -> Any:
        """What a stage looks at after each epoch: the hold-out, or, for paper parity, the test set.

        `share`: rank and world_size, of a process that sees a part of it.
        """
        return self.data.test_loader(**share) if selection == "test" else self.data.holdout_loader(**share)

    # ---- keys ------------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        return self.source.fingerprint()

    @cached_property
    def common(self) -> dict[str, Any]:
        """What every stage of the run depends on."""
        dataset = {key: plain(self.config.dataset[key]) for key in ("holdout", "subset", "mean", "std", "augment")}
        if not dataset["augment"].get("random_resized_crop"):
            dataset["augment"].pop("random_resized_crop", None)  # as before there were such crops
        return {
            "version": RESULTS_VERSION,
            "images": {
                "fingerprint": self.fingerprint,
                "size": self.input_size,
                **dataset,
            },
            "backbone": self._backbone_content,
            "seed": self.seed,
            **self.training.identity,
        }

    @property
    def _backbone_content(self) -> dict[str, Any]:
        """The `backbone` group, with the content of a file of initial weights in place of its name."""
        settings = plain(self.config.backbone)
        if settings.get("weights") is not None:
            settings["weights"] = file_digest(Path(settings["weights"]))
        return settings

    @property
    def plain_config(self) -> dict[str, Any]:
        return plain(self.config)

    @property
    def subject(self) -> str:
        """What is trained, for names: resnet18-cifar10."""
        return f"{self.config.backbone.name}-{self.config.dataset.name}"

    @property
    def name(self) -> str:
        """The run's readable name: snl-resnet18-cifar10-50k-s0."""
        return f"{self.method_name}-{self.subject}-{short_count(self.budget)}-s{self.seed}"

    @cached_property
    def teacher(self) -> Artifact:
        weights = self.config.teacher.weights
        if weights is not None:
            content = {"weights": file_digest(Path(weights)), **self.common}
        else:
            content = {**self._stage_content("teacher"), **self.common}
        return self.store.artifact("teacher", f"{self.subject}-s{self.seed}", content)

    @cached_property
    def allocated(self) -> bool:
        """Whether the search is given the sensitivities of the sites and one budget, instead of serving a curve."""
        return getattr(get_class(self.config.method.search["_target_"]), "allocated", False)

    @cached_property
    def sensitivity_source(self) -> SensitivitySource:
        """Where an allocated search gets its sensitivities from."""
        return SensitivitySource(self)

    @cached_property
    def search(self) -> Artifact:
        """The search as a whole; each budget's snapshot lies in it (an allocated search has one budget)."""
        content = {**self._stage_content("search"), "teacher": self.teacher.key, **self.common}
        if self.allocated:
            content |= {
                "budget": self.budget,
                "sensitivity": self.sensitivity_source.identity,
                **self._allocation_content,
            }
        return self.store.artifact("search", f"{self._word('search')}-{self.subject}-s{self.seed}", content)

    def snapshot(self, budget: int) -> Artifact:
        """The search's result at `budget`."""
        return Artifact(self.search.path / f"budget-{budget}", self.search.key)

    @cached_property
    def chosen(self) -> Artifact:
        """The mask and weights that the fine-tuning starts from.

        The search's own at the budget; or, where an allocation culls sites after a search that scores positions, the
        mask that it makes of the scores. A search that is given sensitivities is given the culled sites with them.
        """
        if self.allocation_settings is None or self.allocated:
            return self.snapshot(self.budget)
        content = {"search": self.search.key, "budget": self.budget, **self._allocation_content}
        word = self.allocation_settings["name"]
        prefix = f"{self._word('search')}-{word}-{self.subject}-{short_count(self.budget)}-s{self.seed}"
        return self.store.artifact("mask", prefix, content)

    def with_settings(self, settings: dict[str, Any]) -> "Plan":
        """The plan of the same config with other values at some dotted keys."""
        config = copy.deepcopy(self.config)
        for key, value in settings.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        return Plan(config)

    @cached_property
    def finetune(self) -> Artifact:
        content = {
            **self._stage_content("finetune"),
            "search": self.search.key,
            "budget": self.budget,
            "teacher": self.teacher.key,
            **self._allocation_content,
            **self.common,
        }
        prefix = (
            f"{self._word('search')}-{self._word('finetune')}-{self.subject}-{short_count(self.budget)}-s{self.seed}"
        )
        return self.store.artifact("finetune", prefix, content)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The result of each stage by name; with what makes the sensitivities, where something has to."""
        stages = {"teacher": self.teacher, "search": self.snapshot(self.budget), "finetune": self.finetune}
        made = self.sensitivity_source.artifact if self.allocated else None
        return stages if made is None else {**stages, "sensitivity": made}

    @cached_property
    def run(self) -> Artifact:
        """The run's folder, with the record. Its key adds what only labels a result."""
        labels = {"title": self.config.dataset.title, "method": self.method_name}
        content = {"finetune": self.finetune.key, "labels": labels}
        return Store(Path(self.config.output)).artifact("runs", self.name, content)

    @property
    def _allocation_content(self) -> dict[str, Any]:
        if self.site_choice is None:
            return {}
        return {"allocation": self.allocation_settings, **self.site_choice.measured}

    def _stage_content(self, stage: str) -> dict[str, Any]:
        """What of a stage's own settings can change its result."""
        routes = self.stage_routes(stage)
        content = {"stage": plain(self.config.method[stage])}
        return content if routes == ROUTES[1] else {**content, "routes": routes}

    def _word(self, stage: str) -> str:
        """SNLSearch -> snlsearch: the class of a stage, for names of folders."""
        return self.config.method[stage]["_target_"].rsplit(".", 1)[-1].lower()

    def stage_classes(self) -> dict[str, str]:
        classes = {
            stage: self.config.method[stage]["_target_"].rsplit(".", 1)[-1]
            for stage in ("teacher", "search", "finetune")
        }
        return classes if self.config.teacher.weights is None else classes | {"teacher": "file"}

    def _check_teacher_weights(self) -> None:
        weights = self.config.teacher.weights
        if weights is not None and not Path(weights).is_file():
            raise UserError(f"teacher.weights={weights} does not exist; give a .safetensors or .pt file")

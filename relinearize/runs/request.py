"""What a run is asked for: its config, resolved and checked before the first training step.

Whatever a user can get wrong is found here, in seconds, and not after the teacher's training.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.routes import ROUTES, with_routes
from relinearize.data.datamodule import ImageData
from relinearize.errors import UserError, as_typed, check_number
from relinearize.private_inference.cost.backbones import recorded_name
from relinearize.progress import say
from relinearize.relu.budget import listed_budget, resolve_budget, short_count
from relinearize.relu.mask import relu_total
from relinearize.relu.replacement import IDENTITY, REPLACEMENTS
from relinearize.relu.sites import site_shapes
from relinearize.runs.build import STUDENT_SHAPE, all_relu_network, open_images, open_source
from relinearize.runs.keys import defaults_of
from relinearize.runs.schema import check_targets, checked
from relinearize.runs.site_choice import FREE, SiteChoice
from relinearize.targets import TARGET, builder, plain, target
from relinearize.tracking.interface import LoggerSettings
from relinearize.training.settings import TrainerSettings


class Request:
    """One run as the config asks for it. UserError names the first key that cannot be.

    training, logger: the groups of these names, resolved.
    source: where the images come from; its files were looked at.
    all_relu: the all-ReLU network with its initial weights, and `total` the number of its ReLUs.
    budget: ReLUs that stay; `grid`: all budgets at which the search leaves a snapshot, from the largest on.
    """

    def __init__(self, config: DictConfig) -> None:
        check_targets(checked(config))
        self.config = config
        self.training = TrainerSettings.resolve(**plain(config.trainer), callbacks=plain(config.get("callbacks")))
        if self.training.threads:
            torch.set_num_threads(self.training.threads)
        self.logger = LoggerSettings(**plain(config.logger), output=Path(config.output))
        check_number("seed", config.seed, ">= 0", "< 4294967296", integer=True)
        self.seed: int = config.seed
        self.total_epochs: int | None = config.get("total_epochs")
        if self.total_epochs is not None and (type(self.total_epochs) is not int or self.total_epochs < 1):
            raise UserError(f"total_epochs={self.total_epochs}: must be an integer >= 1, or null")
        self.source = open_source(config)
        self.all_relu = all_relu_network(self.config, self.source)
        self.total = relu_total(self.all_relu.network)
        self.budget = self._budget(config.budget.relus, config.budget.fraction)
        self.grid = sorted(
            {self.budget, *self._grid(config.budget.grid)},
            reverse=True,
        )
        if self.teacher_file is not None and not self.teacher_file.is_file():
            raise UserError(f"teacher.weights={self.teacher_file} does not exist; give a .safetensors or .pt file")
        _ = self.routes  # refuses what is impossible
        self._reshape_student()
        if self.site_choice is not None:
            self.site_choice.check(self.sizes, self.budget)
        self.check_replacement()
        planned = self.planned_replacement
        if planned not in (None, self.replacement_name):
            raise UserError(
                f"replacement={self.replacement_name}: this search chooses where {planned} ones stand; "
                f"give replacement={planned}"
            )

    def with_settings(self, settings: dict[str, Any]) -> "Request":
        """The same with other values at some dotted keys of the config."""
        config = copy.deepcopy(self.config)
        for key, value in settings.items():
            OmegaConf.update(config, key, value, merge=False, force_add=True)
        return Request(config)

    # ---- names and groups of the config ----------------------------------------------------------------------------

    @cached_property
    def plain_config(self) -> dict[str, Any]:
        return plain(self.config)

    @property
    def subject(self) -> str:
        """What is trained, for names: resnet18-cifar10."""
        return f"{recorded_name(self.config.backbone)}-{self.config.dataset.name}"

    @property
    def method_name(self) -> str:
        """method.name, and what is not as usual: the allocation, the replacement. snl, snl+sites, snl+sites+affine."""
        further = [group["name"] for group in (self.allocation, self.replacement) if group is not None]
        return "+".join([self.config.method.name, *further])

    @property
    def name(self) -> str:
        """The run's readable name: snl-resnet18-cifar10-50k-s0."""
        return f"{self.method_name}-{self.subject}-{short_count(self.budget)}-s{self.seed}"

    def class_name(self, stage: str) -> str:
        """The class of a stage: SNLSearch."""
        return self.config.method[stage][TARGET].rsplit(".", 1)[-1]

    @property
    def planned_replacement(self) -> str | None:
        """The replacement that the search plans with, fitting it itself; None: it knows of none."""
        return getattr(target(self.config.method.search), "plans_with", None)

    @property
    def teacher_file(self) -> Path | None:
        """The weights of a trained teacher, if the user gives some."""
        return None if self.config.teacher.weights is None else Path(self.config.teacher.weights)

    @property
    def allocation(self) -> dict[str, Any] | None:
        """The `allocation` group, None for `free`."""
        settings = plain(OmegaConf.select(self.config, "allocation")) or {"name": FREE}
        return None if settings["name"] == FREE else settings

    @property
    def replacement(self) -> dict[str, Any] | None:
        """The `replacement` group, None for `identity`."""
        settings = plain(OmegaConf.select(self.config, "replacement")) or {"name": IDENTITY}
        return None if settings["name"] == IDENTITY else settings

    @property
    def replacement_name(self) -> str:
        """What stands at removed positions, for records; of the group, or the search's own."""
        own = getattr(target(self.config.method.search), "replacement", IDENTITY)
        return own if self.replacement is None else self.replacement["name"]

    @cached_property
    def replacement_fit(self) -> Any:
        """What fits the coefficients of `replacement` (methods/replacement.py); None for `identity`."""
        if self.replacement is None:
            return None
        fit = built("replacement", {key: value for key, value in self.replacement.items() if key != "name"})
        if hasattr(fit, "continuation") and not self.config.method.finetune.epochs and self.planned_replacement is None:
            fit.continuation = 0.0  # without any training nothing comes in slowly
        return fit

    @property
    def begins_as_teacher(self) -> bool:
        """Whether the fine-tuning starts from the teacher's weights: its polynomials come in slowly, for all ReLUs."""
        slowly = getattr(self.replacement_fit, "continuation", 0) > 0
        return slowly and self.config.method.finetune.epochs > 0 and self.student_is_like_teacher

    def check_replacement(self) -> None:
        """UserError for an unknown replacement, and for any where no ReLU is removed."""
        if self.replacement is None:
            return
        name = self.replacement_name
        own = getattr(target(self.config.method.search), "replacement", IDENTITY)
        if own != IDENTITY:
            raise UserError(
                f"replacement={name}: this search has {own} at removed positions; give replacement=identity"
            )
        if name not in REPLACEMENTS or TARGET not in self.replacement:
            raise UserError(f"replacement.name={name}: give replacement={', '.join(REPLACEMENTS)}, and no other name")
        if self.budget == self.total:
            raise UserError(
                f"replacement={name} stands at removed positions, but all {self.total:,} ReLUs are kept; "
                f"give replacement={IDENTITY} or a lower budget"
            )
        _ = self.replacement_fit  # refuses what is impossible

    @cached_property
    def site_choice(self) -> SiteChoice | None:
        """What culls whole sites; None where every site may keep ReLUs."""
        if self.allocation is None:
            return None
        settings = {key: value for key, value in self.allocation.items() if key not in ("name", "sensitivity")}
        name = self.allocation["name"]
        if TARGET not in settings:
            raise UserError(f"allocation.name={name} names no file; give allocation=sites, cost or shapley")
        search = target(self.config.method.search)
        if getattr(search, "divides", False) or hasattr(search, "budget"):
            raise UserError(f"allocation={name}: this search itself decides where ReLUs stay; give allocation=free")
        if self.allocated and "sensitivity" in self.allocation:
            raise UserError(f"allocation={name}: this search divides by `sensitivity`; give sensitivity={name}")
        return built("allocation", settings)

    @cached_property
    def allocated(self) -> bool:
        """Whether the search is given the sensitivities of the sites; it is for one budget then."""
        return getattr(target(self.config.method.search), "allocated", False)

    @property
    def sensitivity(self) -> dict[str, Any] | None:
        """Where sensitivities of the sites come from: the allocation's own, or the group of an allocated search."""
        own = (self.allocation or {}).get("sensitivity")
        if isinstance(own, str):
            raise UserError(f"allocation.sensitivity={own} is no group; give sensitivity@allocation.sensitivity={own}")
        return plain(self.config.sensitivity) if self.allocated else own

    @cached_property
    def one_budget(self) -> bool:
        """Whether the search is for one budget, instead of serving a curve."""
        return self.allocated or getattr(target(self.config.method.search), "one_budget", False)

    @property
    def first_changes(self) -> dict[str, Any] | None:
        """Dotted key -> value: what the run has other than this one whose search is `method.search.first`, if any."""
        search = self.config.method.search
        if "first" not in search:
            return None
        first = plain(search.first)
        factor = search.get("first_factor", defaults_of(target(search)).get("first_factor", 1))
        if not isinstance(first, dict):
            raise UserError(
                f"method.search.first={as_typed(first)}: must be a search, as method/search@method.search.first=snl"
            )
        check_number("method.search.first_factor", factor, ">= 1")
        problems = {
            "needs sensitivities": getattr(target(first), "allocated", False),
            "prunes whole layers or channels": getattr(target(first), "divides", False),
            "starts from another search itself": "first" in first,
        }
        for problem in (problem for problem, there in problems.items() if there):
            raise UserError(
                f"method.search.first {problem}; give one that does not, as method/search@method.search.first=snl"
            )
        grid = [min(self.total, round(factor * budget)) for budget in self.grid]
        budget = {"relus": grid[self.grid.index(self.budget)], "fraction": None, "grid": grid}
        if hasattr(target(first), "budget"):  # the mask of a file: its own
            budget = {"relus": None, "fraction": None, "grid": []}
        return {
            "method.search": first,
            "budget": budget,
            "allocation": {"name": FREE},
            "replacement": {"name": IDENTITY},
        }

    def _grid(self, entries: Iterable[Any]) -> Iterator[int]:
        """Budgets of the grid. Of a multirun it lists all jobs' budgets: one that is none is that job's to refuse."""
        for entry in entries:
            try:
                yield listed_budget("budget.grid", entry, self.total)
            except UserError as error:
                if self.config.get("sweep") is None:
                    raise
                say(str(error))

    def _budget(self, relus: Any, fraction: Any) -> int:
        search = self.config.method.search
        if hasattr(target(search), "budget"):  # the search's own: what the mask of a file keeps
            try:
                kept = builder(search)().budget(site_shapes(self.all_relu.network))
            except TypeError as error:  # keys that the class does not take
                raise UserError(f"method.search: {error}") from error
            given = (relus, fraction) not in ((None, None), (kept, None))
            if given and resolve_budget(relus, fraction, self.total) != kept:
                name = search.get("file") or target(search).__name__
                raise UserError(f"{name} keeps {kept:,} ReLUs; give no other budget")
            return kept
        if relus is None and fraction is None:
            fraction = 0.5
        return resolve_budget(relus, fraction, self.total)

    # ---- networks --------------------------------------------------------------------------------------------------

    @property
    def input_size(self) -> tuple[int, int, int]:
        return (int(self.source.channels), int(self.source.image_size), int(self.source.image_size))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each site of the network that is linearized."""
        return site_shapes((self.fresh_student() if self.reshaped else self.all_relu).network)

    @property
    def sizes(self) -> dict[str, int]:
        """Positions of each site."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    def new_network(self) -> PixelInput:
        """The all-ReLU network with its initial weights, a function of the seed; every site a MaskedReLU."""
        return copy.deepcopy(self.all_relu)

    def new_student(self) -> PixelInput:
        """The network that is searched and fine-tuned; the same but for `backbone.student_skip` (paper parity), and
        where the search has reshaped it."""
        return self.new_network() if self.student_is_like_teacher else self.fresh_student()

    @property
    def student_is_like_teacher(self) -> bool:
        return self.config.backbone.get("student_skip", True) and not self.reshaped

    @property
    def reshaped(self) -> bool:
        """Whether the network that is linearized has another width or resolution than the teacher."""
        return any(plain(self.config.backbone).get(key, usual) != usual for key, usual in STUDENT_SHAPE.items())

    def _reshape_student(self) -> None:
        """Note in the config which width and resolution the search gives its student (DeepReDuce), if it does."""
        search = plain(self.config.method.search)
        reshape = getattr(target(search), "reshape", None)
        if reshape is None:
            if self.reshaped:
                raise UserError(f"backbone.{', '.join(STUDENT_SHAPE)}: this search trains a student like the teacher")
            return

        def shapes_at(**changes: Any) -> dict[str, tuple[int, ...]]:
            for key, value in (STUDENT_SHAPE | changes).items():  # whatever a finished run's config says
                OmegaConf.update(self.config, f"backbone.{key}", value, force_add=True)
            return site_shapes(self.fresh_student().network)

        settings = {key: value for key, value in search.items() if not key.startswith("_")}
        shape = reshape(shapes_at, self.budget, self.config.backbone.get("width"), **settings)
        for key, value in (STUDENT_SHAPE | shape).items():
            OmegaConf.update(self.config, f"backbone.{key}", value, force_add=True)

    def fresh_student(self) -> PixelInput:
        """The student with initial weights of its own, for searches that do not start from the teacher's."""
        return all_relu_network(self.config, self.source, student=True)

    def stage_network(self, stage: str, teacher: bool = False) -> PixelInput:
        """The network that `stage` trains, or that takes the `teacher`'s weights for it, with the routes it uses."""
        network = self.new_network() if teacher or stage == "teacher" else self.new_student()
        if len(self.stage_routes(stage)) > 1:
            network.network = with_routes(network.network, self.stage_routes(stage))
        return network

    def stage_routes(self, stage: str) -> tuple[str, ...]:
        """The batch-norm routes that `stage` trains; one, "clean", unless it uses routes and the method has them."""
        routed = getattr(target(self.config.method[stage]), "routed", False)
        return self.routes if routed else ROUTES[1]

    @property
    def routes(self) -> tuple[str, ...]:
        """The routes of `method.routes`."""
        number = self.config.method.get("routes", 1)
        if number not in ROUTES:
            raise UserError(f"method.routes={number} is impossible; valid: {', '.join(map(str, ROUTES))}")
        return ROUTES[number]

    # ---- images ----------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        return self.source.fingerprint()

    @cached_property
    def data(self) -> ImageData:
        """The images, loaded when first needed: a finished run never needs them."""
        return open_images(self.config, self.source, self.training.accelerator)


def built(group: str, settings: dict[str, Any]) -> Any:
    """What the class of a group makes of its settings. UserError for those that it does not take."""
    build = builder(settings)  # in two steps, so that its own errors stay ours
    try:
        return build()
    except TypeError as error:
        raise UserError(f"{group} ({build.func.__name__}): {error}") from error

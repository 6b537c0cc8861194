"""What a run consists of: for each stage its key and its place in the store, and what was read or made so far."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from relinearize.backbones.routes import ROUTES
from relinearize.backbones.weights import read_weights
from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.records.store import MASK, PUBLISHED, WEIGHTS, Artifact, artifact_in
from relinearize.relu.budget import short_count
from relinearize.relu.mask import Mask, MaskMetadata
from relinearize.runs.build import NETWORK_DEFAULTS, STUDENT_SHAPE
from relinearize.runs.keys import RESULTS_VERSION, settings_content, without_defaults
from relinearize.runs.request import Request, built
from relinearize.targets import plain, target

USUAL_KEYS = ("method.teacher", "method.search", "method.finetune", "sensitivity")
OF_IMAGES = ("holdout", "subset", "mean", "std", "augment")  # keys of `dataset` that decide what is trained on


class Results:
    """Masks and weights of finished stages. Each file is read once in a run, and not at all if the run wrote it."""

    def __init__(self) -> None:
        self._contents: dict[Path, Any] = {}

    def weights(self, artifact: Artifact, file: str = WEIGHTS) -> dict[str, Tensor]:
        """The tensors of one of its files; not to be changed."""
        return self._read(artifact, file, read_weights)

    def mask(self, artifact: Artifact) -> tuple[Mask, MaskMetadata]:
        return self._read(artifact, MASK, Mask.from_file)

    def _read(self, artifact: Artifact, file: str, reader: Callable[[Path], Any]) -> Any:
        path = artifact.path / file
        if path not in self._contents:
            self._contents[path] = reader(artifact.file(file))
        return self._contents[path]

    def keep(self, artifact: Artifact, files: dict[str, Any]) -> None:
        """What `weights` and `mask` give of these files of the artifact, which the run has just published."""
        if artifact.path not in PUBLISHED:  # another job was first, and its files stand
            return
        self._contents |= {artifact.path / file: content for file, content in files.items() if content is not None}


class Plan:
    """The stages of a request as artifacts. Keys are hashes of what can change a result and of nothing else."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.results = Results()

    @classmethod
    def of(cls, config: DictConfig) -> "Plan":
        return cls(Request(config))

    @cached_property
    def common(self) -> dict[str, Any]:
        """What every stage of the run depends on."""
        request = self.request
        given = plain(request.config.dataset)
        dataset = {"holdout": 0, "subset": None} | {name: given[name] for name in OF_IMAGES if name in given}
        if request.config.dataset.get("short_batch"):
            dataset["short_batch"] = True
        if not dataset["augment"].get("random_resized_crop"):
            dataset["augment"].pop("random_resized_crop", None)  # null: crops by padding
            if getattr(request.source, "stream", False):
                dataset["stream"] = True  # a crop by padding shows what of the image is beyond the central square
        # What a search makes of its student follows from its settings and the budget, and teachers do not depend on it.
        students = {*STUDENT_SHAPE, "student_skip"}
        backbone = {key: value for key, value in plain(request.config.backbone).items() if key not in students}
        if backbone.get("weights") is not None:
            backbone["weights"] = file_digest(Path(backbone["weights"]))
        return {
            "version": RESULTS_VERSION,
            "images": {
                "fingerprint": request.fingerprint,
                "size": request.input_size,
                **dataset,
            },
            "backbone": without_defaults(settings_content(backbone), NETWORK_DEFAULTS),
            "seed": request.seed,
            **settings_content(request.training.identity),
        }

    @cached_property
    def teacher(self) -> Artifact:
        file = self.request.teacher_file
        content = self._stage_content("teacher") if file is None else {"weights": file_digest(file)}
        return self._artifact("teacher", [], {**content, **self.common})

    @cached_property
    def search(self) -> Artifact:
        """The search as a whole; each budget's snapshot lies in it (some searches have one budget)."""
        content = {**self._stage_content("search"), "teacher": self.teacher.key, **self.common}
        if not self.request.config.backbone.get("student_skip", True):
            content["student_skip"] = False
        if self.request.one_budget:
            content["budget"] = self.request.budget
        if self.request.allocated:
            content |= {"sensitivity": self.sensitivity_identity, **self._allocation_content}
        if self.first is not None:
            content["first"] = self.first.search.key
        if self.request.planned_replacement is not None:
            content |= self._replacement_content
        return self._artifact("search", [self._word("search")], content)

    @cached_property
    def first(self) -> "Plan | None":
        """The plan of the search whose mask this run's search starts from, at a larger budget; None for most."""
        changes = self.request.first_changes
        if changes is None:
            return None
        with keys_of("method.search.first"):
            first = Plan(self.request.with_settings(changes))
        if first.request.budget < self.request.budget:
            kept, asked = first.request.budget, self.request.budget
            raise UserError(f"method.search.first keeps {kept:,} ReLUs, fewer than the {asked:,} asked")
        return first

    def snapshot(self, budget: int | None = None) -> Artifact:
        """The search's result at `budget`, the run's own by default."""
        budget = self.request.budget if budget is None else budget
        return Artifact(self.search.path / f"budget-{budget}", self.search.key)

    @cached_property
    def chosen(self) -> Artifact:
        """The mask and weights that the fine-tuning starts from.

        The search's own at the budget; or, where an allocation divides the budget after a search that scores positions,
        the mask that it makes of the scores. A search that is given sensitivities is given the culled sites with them.
        """
        if self.request.allocation is None or self.request.allocated:
            return self.snapshot()
        content = {"search": self.search.key, "budget": self.request.budget, **self._allocation_content}
        return self._artifact("mask", [self._word("search"), self.request.allocation["name"]], content, budget=True)

    @cached_property
    def finetune(self) -> Artifact:
        content = {
            **self._stage_content("finetune"),
            "search": self.search.key,
            "budget": self.request.budget,
            "teacher": self.teacher.key,
            **self._allocation_content,
            **self.common,
        }
        if self.request.replacement is not None:
            content |= self._replacement_content
        if self.request.total_epochs is not None:
            content["total_epochs"] = self.request.total_epochs
            if self.sensitivity_first is not None:
                content["sensitivity"] = "with its first search"  # before, its epochs were not counted
        return self._artifact("finetune", [self._word("search"), self._word("finetune")], content, budget=True)

    @cached_property
    def run(self) -> Artifact:
        """The run's folder, with the record. Its key adds what only labels a result."""
        labels = {"title": self.request.config.dataset.title, "method": self.request.method_name}
        content = {"finetune": self.finetune.key, "labels": labels}
        return artifact_in(self.request.config.output, "runs", self.request.name, content)

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The result of each stage by name; with what the search starts from, where that has to be made."""
        stages = {"teacher": self.teacher, "search": self.snapshot(), "finetune": self.finetune}
        if self.sensitivity is not None:
            stages["sensitivity"] = self.sensitivity
        if self.sensitivity_first is not None:
            stages["sensitivity_first"] = self.sensitivity_first.snapshot()
        return stages if self.first is None else {**stages, "first": self.first.snapshot()}

    @property
    def read(self) -> list[Artifact]:
        """All that the run reads or makes: its folder, the results of its stages, and what they start from."""
        return [self.run, *self.artifacts.values(), self.chosen, self.sensitivity_teacher]

    # ---- sensitivities, for an allocated search or an allocation -----------------------------------------------------

    @cached_property
    def sensitivity_settings(self) -> dict[str, Any]:
        """The `sensitivity` group without its seed. One of three kinds: a class with `sensitivities(shapes, backbone)`,
        which knows them at once; a Stage that trains the all-ReLU network and then has `sensitivities()`; or, under the
        key `search`, another search, whose mask's count at each site is taken."""
        return {key: value for key, value in self.request.sensitivity.items() if key != "seed"}

    @property
    def sensitivity_learned(self) -> bool:
        """Whether they are the counts of another search's mask."""
        return "search" in self.sensitivity_settings

    @property
    def sensitivity_key(self) -> str:
        """Where the config has them."""
        return "sensitivity" if self.request.allocated else "allocation.sensitivity"

    @property
    def sensitivity_first(self) -> "Plan | None":
        """The plan of the search that theirs starts from, if one has to be made."""
        if self.sensitivity is None or not self.sensitivity_learned:
            return None
        with keys_of(f"{self.sensitivity_key}.search"):
            return self.sensitivity_maker.first

    @cached_property
    def known_sensitivities(self) -> dict[str, float] | None:
        """Those that need no training."""
        if self.sensitivity_learned or hasattr(target(self.sensitivity_settings), "training_step"):
            return None
        with keys_of(self.sensitivity_key):
            maker = built("sensitivity", self.sensitivity_settings)
            found = maker.sensitivities(self.request.shapes, self.request.config.backbone.name)
            for name in self.request.shapes:
                if not math.isfinite(found.get(name, math.nan)):
                    raise UserError(f"sensitivity: site {name} is given {found.get(name)}; it must be a finite number")
        return {name: float(value) for name, value in found.items()}

    @cached_property
    def sensitivity_maker(self) -> "Plan":
        """The plan that makes them: of `sensitivity.seed`, and with `sensitivity.search` as its search."""
        seed = self.request.sensitivity.get("seed", self.request.seed)
        changes: dict[str, Any] = {} if seed == self.request.seed else {"seed": seed}
        if self.sensitivity_learned:
            changes["method.search"] = search = self.sensitivity_settings["search"]
            if getattr(target(search), "allocated", False):
                key = f"{self.sensitivity_key}.search"
                raise UserError(f"{key} needs sensitivities itself; give one that does not, as method/search@{key}=snl")
        return Plan(self.request.with_settings(changes)) if changes else self

    @cached_property
    def sensitivity(self) -> Artifact | None:
        """What has to be made for them: the stage's result, shared by all budgets and by all seeds that name its seed;
        or the search's mask at the run's budget. None where they are known, or not needed."""
        if self.request.sensitivity is None:
            return None
        if self.known_sensitivities is not None:
            return None
        maker = self.sensitivity_maker
        if self.sensitivity_learned:
            with keys_of(f"{self.sensitivity_key}.search"):
                return maker.snapshot()
        content = {"stage": settings_content(self.sensitivity_settings), "teacher": maker.teacher.key, **maker.common}
        return maker._artifact("sensitivity", [], content)

    @property
    def sensitivity_teacher(self) -> Artifact:
        """The teacher that they are made from, of `sensitivity.seed`; where none are made, the run's own."""
        return self.teacher if self.sensitivity is None else self.sensitivity_maker.teacher

    @cached_property
    def sensitivity_identity(self) -> Any:
        """What stands for them in the key of the search: their values, or the key of what makes them."""
        if self.sensitivity is None:
            return self.known_sensitivities
        if self.sensitivity_learned:
            return {"search": self.sensitivity.key, "budget": self.sensitivity_maker.request.budget}
        return self.sensitivity.key

    def sensitivities(self) -> dict[str, float]:
        """The sensitivity of each site, in forward order, once what makes them is in the store; {} if not needed."""
        if self.request.sensitivity is None:
            return {}
        if self.sensitivity is None:
            return self.known_sensitivities
        if self.sensitivity_learned:
            mask, _ = self.sensitivity_maker.results.mask(self.sensitivity)
            return {name: float(count) for name, count in mask.counts.items()}
        return self.sensitivity.describe()["sensitivities"]

    # ---- parts of keys and names -----------------------------------------------------------------------------------

    @property
    def _replacement_content(self) -> dict[str, Any]:
        content = {"replacement": settings_content(self.request.replacement)}
        if getattr(self.request.replacement_fit, "held", False):
            content["norms"] = "median"  # before, they were estimated as means
        if self.request.input_size[-1] > 64:
            content["fit"] = "by size"  # before, of as many images as of smaller ones
        return content

    def _artifact(self, kind: str, words: list[str], content: dict[str, Any], budget: bool = False) -> Artifact:
        request = self.request
        counts = [short_count(request.budget)] if budget else []
        prefix = "-".join([*words, request.subject, *counts, f"s{request.seed}"])
        return artifact_in(request.config.store, kind, prefix, content)

    @property
    def _allocation_content(self) -> dict[str, Any]:
        if self.request.site_choice is None:
            return {}
        settings = dict(self.request.allocation)
        by = {"sensitivity": self.sensitivity_identity} if settings.pop("sensitivity", None) else {}
        return {"allocation": settings_content(settings), **by, **self.request.site_choice.measured}

    def _stage_content(self, stage: str) -> dict[str, Any]:
        """What of a stage's own settings can change its result."""
        routes = self.request.stage_routes(stage)
        content = {"stage": _by_content(settings_content(self.request.config.method[stage]))}
        # What was computed otherwise before:
        if content["stage"].get("exchanges"):
            content["exchanges"] = "halved"  # one that was gone back on was tried again
        if content["stage"].get("selection") == "correlated":
            content["correlated"] = "to the rung"  # to the lowest budget that was asked
        if self._word(stage) == "relupruner" and "accumul" in str(self.request.training.identity):
            content["masks"] = "once a step, by the whole loss"  # in each batch of a step, by a part of it
        drawn = getattr(target(self.request.config.method[stage]), "drawn_validation", False)
        validation = content["stage"].get("robust_validation")
        if drawn and not (isinstance(validation, dict) and validation.get("images") == 0):
            content["val/robust"] = "of drawn images"  # of the first ones, a few classes where a set is sorted by class
        if self._word(stage) in ("delphi", "safenet") and content["stage"].get("class_multiplier_rate"):
            content["multipliers"] = "of each trial"  # of all trials
        return content if routes == ROUTES[1] else {**content, "routes": routes}

    def _word(self, stage: str) -> str:
        """SNLSearch -> snlsearch: the class of a stage, for names of folders."""
        return self.request.class_name(stage).lower()


def _by_content(settings: Any) -> Any:
    """`settings` with the digests of files in place of their paths, wherever a key is called `file`."""
    if isinstance(settings, list):
        return [_by_content(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    found = {key: _by_content(value) for key, value in settings.items()}
    file = found.get("file")
    return found | {"file": file_digest(Path(file))} if isinstance(file, str) and Path(file).is_file() else found


@contextmanager
def keys_of(key: str) -> Iterator[None]:
    """What is wrong with another search than the run's own, or with an allocation's sensitivities, is said of their
    keys: `method.search.first.epochs`, `allocation.sensitivity.epochs`.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        if key in USUAL_KEYS:
            raise
        if key.endswith("sensitivity"):
            text = re.sub(r"(?<![\w.@])sensitivity=", f"sensitivity@{key}=", text)
            text = re.sub(r"(?<![\w.@])sensitivity(?=[.: ])", key, text)
        else:
            text = re.sub(r"(?<![\w.])method\.search\b" + r"(?!\.first\b)" * key.endswith(".first"), key, text)
        raise type(error)(text) from error

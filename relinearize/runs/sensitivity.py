"""Where an allocated search gets its sensitivities from: the `sensitivity` group of the config, and what it needs.

Three kinds of `_target_`: a class with `sensitivities(shapes, backbone)`, which knows them at once; a Stage that trains
the all-ReLU network and then has `sensitivities()`; or, under the key `search`, another search, whose mask's count at
each site is taken.
"""

from functools import cached_property, partial
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from relinearize.errors import UserError
from relinearize.records.store import MASK, Artifact
from relinearize.relu.mask import Mask


class SensitivitySource:
    """The sensitivities of `plan`: known at once (`known`), or to be made by the stage or search of `maker`."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.settings = OmegaConf.to_container(plan.config.sensitivity, resolve=True)
        self.seed = self.settings.pop("seed", plan.seed)
        self.learned = "search" in self.settings

    @cached_property
    def build(self) -> partial:
        """The class of `sensitivity._target_` with its settings."""
        return instantiate(self.settings, _partial_=True, _convert_="all")

    @cached_property
    def known(self) -> dict[str, float] | None:
        """Sensitivities that need no training."""
        if self.learned or self.trained:
            return None
        return self.build().sensitivities(self.plan.shapes, self.plan.config.backbone.name)

    @property
    def trained(self) -> bool:
        """Whether a stage computes them."""
        return not self.learned and hasattr(self.build.func, "training_step")

    @cached_property
    def maker(self) -> Any:
        """The plan that makes them: of `sensitivity.seed`, and with `sensitivity.search` as its search."""
        settings: dict[str, Any] = {"seed": self.seed}
        if self.learned:
            search = self.settings["search"]
            if getattr(get_class(search["_target_"]), "allocated", False):
                raise UserError(
                    "sensitivity.search needs sensitivities itself; give one that does not, as "
                    "method/search@sensitivity.search=snl"
                )
            settings["method.search"] = search
        unchanged = self.seed == self.plan.seed and not self.learned
        return self.plan if unchanged else self.plan.with_settings(settings)

    @cached_property
    def artifact(self) -> Artifact | None:
        """What has to be made for them: the stage's result, shared by all budgets and by all seeds that name its seed;
        or the search's mask at the run's budget. None where they are known."""
        if self.known is not None:
            return None
        source = self.maker
        if self.learned:
            return source.snapshot(source.budget)
        content = {"stage": self.settings, "teacher": source.teacher.key, **source.common}
        return source.store.artifact("sensitivity", f"{source.subject}-s{self.seed}", content)

    @cached_property
    def identity(self) -> Any:
        """What stands for them in the key of the search: their values, or the key of what makes them."""
        if self.learned:
            return {"search": self.artifact.key, "budget": self.maker.budget}
        return self.known if self.artifact is None else self.artifact.key

    def values(self) -> dict[str, float]:
        """The sensitivity of each site, in forward order, once what makes them is in the store."""
        if self.artifact is None:
            return self.known
        if self.learned:
            mask, _ = Mask.from_file(self.artifact.path / MASK)
            return {name: float(count) for name, count in mask.counts.items()}
        return self.artifact.describe()["sensitivities"]

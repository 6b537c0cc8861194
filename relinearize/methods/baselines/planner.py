"""A planner: a genetic search over what keeps its ReLUs and what becomes a polynomial, as DELPHI's (2020).

What a trial is, and how plans are bred: docs/methods.md. A plan is numbers from 0 to 1, which a subclass turns into
counts that meet the budget, so that no plan is wasted. The next one is a function of the finished trials and the seed:
a checkpoint has the trials, no state of Optuna's, and a killed search goes on to the same bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.backbones.adapter import inner_network
from relinearize.errors import UserError, check_number
from relinearize.methods.masked_search import MaskedSearch
from relinearize.methods.replacement import GaussianFit
from relinearize.methods.stage.snapshot import Snapshot
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import COEFFICIENTS, REPLACEMENTS
from relinearize.relu.sites import named_sites, site_shapes, to_replaced

# Of a finished trial: its number in the generations, which the sampler notes.
Trial = dict[str, Any]


class Planner(MaskedSearch):
    """What DELPHI and SAFENet share; a subclass says which numbers make a plan, and what a plan is.

    Settings: conf/method/search/delphi.yaml.

    Args:
        network, teacher, budget: see MaskedSearch. network: with the teacher's weights, from which every trial starts.
        fit: the run's `replacement`. Its polynomials are held in every trial (polynomials.py).
    """

    plans_with = "quadratic"  # what the run's `replacement` must be; see runs/request.py
    divides = True  # the budget, itself: no allocation does it again
    unit = ""  # of what is chosen, for messages: layers, channels
    SAVED = (*MaskedSearch.SAVED, "trials", "tried", "best_trial")

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        budget: int,
        fit: GaussianFit,
        trials: int = 50,
        trial_epochs: int = 2,
        population: int = 10,
        exact: bool = False,
        **settings: Any,
    ) -> None:
        check_number(f"{self.config_key}.trials", trials, ">= 1", integer=True)
        check_number(f"{self.config_key}.trial_epochs", trial_epochs, ">= 1", integer=True)
        self.take(">= 2", integer=True, population=population)
        self.take_one_of((True, False), exact=exact)
        super().__init__(network, teacher, budget=budget, epochs=trials * trial_epochs, **settings)
        optuna_module(self.config_key)
        self.fit, self.period = fit, trial_epochs
        inner = inner_network(network)
        self.initial = {name: value.clone() for name, value in inner.state_dict().items()}
        self.shapes = site_shapes(inner)
        number = REPLACEMENTS.index(self.plans_with)  # of coefficients
        empty = {name: torch.zeros(number, shape[0], *[1] * (len(shape) - 1)) for name, shape in self.shapes.items()}
        to_replaced(inner, {f"{name}.{COEFFICIENTS}": values for name, values in empty.items()})
        self.hold_polynomials(fit)
        nearest = counts_from_below(self.units, list(self.shapes), dict.fromkeys(self.shapes, 0), budget)
        closest = sum(count * self.units[name][1] for name, count in nearest.items())
        if not closest:
            least = min(size for _, size in self.units.values())
            raise UserError(
                f"budget.relus={budget}: whole {self.unit} have {least:,} ReLUs at least; give {least} or more"
            )
        if exact and closest != budget:
            raise UserError(
                f"{self.config_key}.exact=true: whole {self.unit} have {closest:,} ReLUs at most, not {budget:,}; "
                f"give budget.relus={closest}, or exact=false"
            )
        self.trials: list[Trial] = []  # finished ones
        self.tried: Trial = {}  # the present one, without its value
        self.best_trial: Trial = {}  # mask and weights of the best one

    # ---- what a subclass defines -------------------------------------------------------------------------------------

    @property
    def units(self) -> dict[str, tuple[int, int]]:
        """Site -> how many units it has, and the ReLUs of each."""
        raise NotImplementedError

    @property
    def numbers(self) -> list[str]:
        """The names of the numbers from 0 to 1 that make a plan."""
        raise NotImplementedError

    def plan(self, numbers: Mapping[str, float]) -> tuple[Mask, GaussianFit]:
        """What keeps its ReLUs, and what fits the rest."""
        raise NotImplementedError

    # ---- trials ------------------------------------------------------------------------------------------------------

    def propose(self) -> Trial:
        """The numbers of the next trial, bred from the finished ones."""
        optuna = optuna_module(self.config_key)
        ranges = dict.fromkeys(self.numbers, optuna.distributions.FloatDistribution(0.0, 1.0))
        seed = (self.seed * 1_000_003 + len(self.trials)) % 2**32
        sampler = optuna.samplers.NSGAIISampler(population_size=self.population, seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in self.trials:
            study.add_trial(optuna.create_trial(distributions=ranges, **trial))
        asked = study.ask(ranges)
        return {"params": dict(asked.params), "system_attrs": dict(study.trials[-1].system_attrs)}

    def begin_trial(self) -> None:
        """The teacher's weights under the plan that comes next, its polynomials fitted."""
        self.tried = self.propose()
        inner = inner_network(self.network)
        inner.load_state_dict(self.initial, strict=False)  # which lacks coefficients
        mask, fit = self.plan(self.tried["params"])
        self.put_on(mask)
        coefficients = fit.coefficients(self.network, self.further_batches(0, fit.images), self.seed)
        for name, site in named_sites(inner).items():
            site.coefficients.copy_(coefficients[f"{name}.{COEFFICIENTS}"])
        for optimizer in self.trainer.optimizers:  # momentum of the trial before
            optimizer.state.clear()
        if self.class_multipliers is not None:
            self.class_multipliers.state = None

    def on_train_start(self) -> None:
        super().on_train_start()
        if not self.tried:
            self.begin_trial()

    def epoch_end(self, row: dict[str, float]) -> None:
        super().epoch_end(row)
        row["plan/trial"] = len(self.trials)
        epoch = int(row["epoch"]) + 1
        if epoch % self.period:
            return
        if all(trial["value"] < row["val/accuracy"] for trial in self.trials):  # of equals the first
            self.best_trial = {"mask": dict(self.mask), "weights": self.weights()}
        self.trials.append(self.tried | {"value": row["val/accuracy"]})
        if epoch < self.epochs:
            self.begin_trial()

    def snapshot(self) -> Snapshot:
        """The best trial, also where a callback ended the search within a later one."""
        if self.best_trial:
            self.put_on(Mask(self.best_trial["mask"]))
            inner_network(self.network).load_state_dict(self.best_trial["weights"])
        return super().snapshot()

    # ---- training ----------------------------------------------------------------------------------------------------

    def check_selection(self, holdout: float) -> None:
        if not holdout:
            raise UserError(
                f"{self.config_key} compares plans on held-out images but dataset.holdout=0; give dataset.holdout=0.1"
            )

    def check_devices(self, devices: int) -> None:
        if devices > 1:  # whose polynomials would differ
            raise UserError(f"{self.config_key} ({type(self).__name__}) runs on one device; give trainer.devices=1")

    def step_loss(self, batch_index: int, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Finite, as polynomials of a bad plan may grow beyond all bounds: it is worth little, the search goes on."""
        loss, metrics = super().step_loss(batch_index, *batch)
        largest = 1e6
        finite = {name: value.nan_to_num(largest, largest, -largest) for name, value in metrics.items()}
        return loss.nan_to_num(largest, largest, -largest), finite

    def on_before_optimizer_step(self) -> None:
        for weight in self.network.parameters():
            if weight.grad is not None:
                weight.grad.nan_to_num_(0, 0, 0)
        super().on_before_optimizer_step()


def optuna_module(key: str) -> Any:
    """Optuna. UserError where it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(f"{key} needs the package optuna: pip install -e '.[planner]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def counts_from_below(
    units: Mapping[str, tuple[int, int]], order: Sequence[str], wanted: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Units per site whose ReLUs sum to `budget`, or, if no counts do, to the most that any do below it.

    Site by site in `order`: the count next to the wanted one with which the others can still make up that sum, of two
    the smaller. units: site -> (how many it has, the ReLUs of each).
    """
    reachable = [1]  # bit s: the sites from here on can sum to s
    for name in reversed(order):
        number, size = units[name]
        sums, chunk = reachable[-1], 1
        while number:
            taken = min(chunk, number)
            sums |= sums << taken * size
            number, chunk = number - taken, 2 * chunk
        reachable.append(sums & ((1 << budget + 1) - 1))
    rest = reachable.pop().bit_length() - 1
    counts = {}
    for name in order:
        number, size = units[name]
        after = reachable.pop()
        possible = [count for count in range(min(number, rest // size) + 1) if after >> rest - count * size & 1]
        counts[name] = min(possible, key=lambda count: (abs(count - wanted[name]), count))
        rest -= counts[name] * size
    return {name: counts[name] for name in units}

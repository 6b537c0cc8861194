"""The base of every training stage: one loss, one optimizer, epochs that can stop and resume between segments.

A *segment* is one of `segments` near-equal parts of a data epoch, and what Lightning calls an epoch. Validation, budget
checks and stopping happen at segment ends only. The state is the weights, the optimizer and a few numbers: batches and
learning rates are functions of (seed, epoch, batch). A killed run therefore resumes to the same bits, from a checkpoint
of a segment's end or, after a signal or in a long segment, of any batch.
"""

import copy
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import update_bn

from relinearize.backbones.adapter import inner_network
from relinearize.backbones.batch_norm import NORMS
from relinearize.data.loaders import TrainLoader
from relinearize.errors import UserError, check_choice, check_number
from relinearize.methods.losses import accuracy
from relinearize.methods.polynomials import HeldPolynomials, median_norms
from relinearize.methods.replacement import GaussianFit
from relinearize.methods.scores import Scores, check_score
from relinearize.methods.stage.epoch_sums import EpochSums
from relinearize.methods.stage.schedule import SCHEDULES, learning_rate, sgd
from relinearize.processes import average_batch_norms, process_count, process_rank

SELECTIONS = ("best", "last", "test")
# Number of an epoch beyond any that is trained: orders and crops are functions of it.
UNTRAINED = 1_000_000


class Diverged(UserError):
    """The loss of a stage became NaN or infinite."""


class Stage(nn.Module):
    """Trains `network` (pixels in, logits out) for `epochs` epochs; subclasses say with which loss and optimizer.

    Settings: conf/method/teacher/classifier.yaml; rates: schedule.py.

    Args:
        network: pixels N x C x H x W in [0, 1] to logits; trained in place.
        epochs: passes over the training images; 0, for a fine-tuning: the weights stay as they are.
        clip: largest norm of a step's gradient, which is shortened to it; None: any.
        segments: parts of an epoch between which the training may stop, be checked and be saved.
    """

    name = "stage"  # the directory of the store and the word in messages: teacher, search, finetune
    config_group = "method."  # what stands before the name in config keys
    second_view: str | None = None  # a second augmentation of each batch that the loss needs: "augmix"
    least_epochs = 1
    segments_key = "segments"  # the setting that says how many
    routed = False  # whether the stage uses the batch-norm routes of the network (see backbones.routes)
    narrows = False  # whether it is given `narrower`: from a fraction of the channels to a new network with these
    score_of: Callable[..., Scores] | None = None  # of a search: what scores positions
    period: int | None = None  # epochs that `schedule` covers before it begins again; None: all
    drawn_validation = False  # whether validation images come in an order that is drawn, so that some stand for all
    batch_shares = 1  # parts of a batch that pass batch norms separately
    start = "teacher"  # of a search for one budget: from the teacher's weights, or from "scratch"
    # Attributes of the subclass, or of what it has ("mismatch.sums"), that a checkpoint holds, too, under their last
    # names: plain types and tensors.
    SAVED: tuple[str, ...] = ()
    UNUSED: tuple[str, ...] = ()  # settings of this class that the subclass has no use for

    def __init__(
        self,
        network: nn.Module,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        schedule: str = "constant",
        milestones: tuple[float, ...] = (),
        gamma: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        clip: float | None = None,
        selection: str = "best",
        segments: int = 1,
    ) -> None:
        super().__init__()
        self.take_one_of(SELECTIONS, selection=selection)
        self.take_one_of(SCHEDULES, schedule=schedule)
        self.take(f">= {self.least_epochs}", integer=True, epochs=epochs)
        self.take(">= 2", integer=True, batch_size=batch_size)
        check_number(f"{self.config_key}.{self.segments_key}", segments, ">= 1", integer=True)
        self.segments = segments
        key = f"{self.config_key}.milestones"
        if not isinstance(milestones, Sequence) or isinstance(milestones, str):
            raise UserError(f"{key}={milestones}: must be a list of fractions of the epochs, such as [0.5,0.75]")
        for milestone in milestones:
            check_number(key, milestone, ">= 0", "< 2")  # the official code has some above 1
        if schedule == "milestones" and not milestones:
            raise UserError(f"{self.config_key}.schedule=milestones: needs {key}, such as ++{key}=[0.5,0.75]")
        rates = {"schedule": schedule, "milestones": tuple(milestones), "gamma": gamma}
        rates |= {"momentum": momentum, "weight_decay": weight_decay}
        for name in self.UNUSED:
            if rates[name] != Stage.__init__.__kwdefaults__[name]:
                raise UserError(f"{self.config_key}.{name}: {type(self).__name__} does not use it; leave it out")
        check_number(f"{self.config_key}.learning_rate", learning_rate, ">= 0")
        self.take(">= 0", gamma=gamma, weight_decay=weight_decay)
        self.take(">= 0", "< 1", momentum=momentum)
        self.take("> 0", optional=True, clip=clip)
        self.network = network
        self.base_learning_rate, self.milestones = learning_rate, tuple(milestones)
        self.train_loader: TrainLoader | None = None
        self.validation_loader: Iterable[tuple[Tensor, Tensor]] | None = None
        self.precision_name = "32"
        self.memory_format = torch.channels_last  # of the weights
        self.seed = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"score": -1.0, "epoch": -1, "weights": None}
        self.seconds = 0.0
        self._segment_started = time.monotonic()
        self.sums = EpochSums()
        self._generator_state: dict[str, Tensor] = {}  # of a checkpoint, until the training goes on
        self._stopped = False  # whether it is that of a training which had ended early
        # Networks that are used but neither trained nor saved; a tuple hides them from Module's registration.
        self._frozen: tuple[nn.Module, ...] = ()
        self._trained_by: tuple[Any, ...] = ()
        self.polynomials: HeldPolynomials | None = None

    @property
    def config_key(self) -> str:
        """Where the stage's settings stand in the config, for messages: method.search."""
        return f"{self.config_group}{self.name}"

    def take(self, *bounds: str, integer: bool = False, optional: bool = False, **numbers: Any) -> None:
        """Keep settings as attributes. UserError, naming the config key, for what is no number within `bounds`."""
        for name, value in numbers.items():
            check_number(f"{self.config_key}.{name}", value, *bounds, integer=integer, optional=optional)
            setattr(self, name, value)

    def take_one_of(self, valid: Iterable[object], **choices: Any) -> None:
        """Keep settings as attributes. UserError, naming the config key, for what is not `valid`."""
        for name, value in choices.items():
            check_choice(f"{self.config_key}.{name}", value, valid)
            setattr(self, name, value)

    # ---- what a subclass defines -------------------------------------------------------------------------------------

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch and the detached per-image means to be averaged over the epoch (`train/...`).

        A stage with a `second_view` gets that view of the same images (N x C x H x W) as third argument.
        """
        raise NotImplementedError

    def segment_end(self, last_of_epoch: bool) -> None:
        """Called after each segment, before the epoch's row is written."""

    def validate(self, row: dict[str, float]) -> None:
        """Called with the epoch's metrics, val/accuracy among them; further validation is added to them."""

    def score(self, row: dict[str, float]) -> float | None:
        """What the choice of weights goes by, from the validated metrics; None: this epoch is no candidate."""
        return row["val/accuracy"]

    def epoch_end(self, row: dict[str, float]) -> None:
        """Called after validation and choice with the epoch's metrics, which it may extend."""

    @property
    def fewest_epochs(self) -> int:
        """Epochs that the stage trains in any case; fewer than `epochs` where it may end before."""
        return self.epochs

    @property
    def result_network(self) -> nn.Module:
        """The network that is validated and left: the trained one, or an average of it."""
        return self.network

    def configure_optimizers(self) -> optim.Optimizer:
        return sgd(self.network.parameters(), self.base_learning_rate, self.momentum, self.weight_decay)

    def check_selection(self, holdout: float) -> None:
        """UserError where the weights are chosen on a hold-out and `holdout`, its share of the images, is 0."""
        if self.epochs and self.selection == "best" and not holdout:
            raise UserError(
                f"{self.config_key}.selection=best needs held-out images but dataset.holdout=0; "
                f"give dataset.holdout (0.1, say) or {self.config_key}.selection=last"
            )

    def check_devices(self, devices: int) -> None:
        """UserError where batches cannot be divided among so many processes."""
        least = 8 * self.batch_shares * devices  # an epoch's last batch may be a quarter; a batch norm needs 2 images
        if devices > 1 and self.epochs and (self.batch_size % devices or self.batch_size < least):
            raise UserError(
                f"{self.config_key}.batch_size={self.batch_size} is shared by trainer.devices={devices} "
                f"processes; give a multiple of {devices} that is at least {least}"
            )

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """UserError where something of the user's fails on two images, before anything is trained."""
        if self.score_of is not None:
            check_score(f"{self.config_key}.score", self.score_of, self.network, self._frozen[0], images, labels)

    def hold_polynomials(self, fit: GaussianFit) -> None:
        """Hold the network's polynomials from now on, as `fit` and `polynomials.py` say.

        Batch-norm statistics are then estimated anew to be validated (`median_norms`).
        """
        if fit.held:
            self.polynomials = HeldPolynomials(self.network, fit.error_weight, fit.continuation)
        self.clip = min((clip for clip in (self.clip, fit.clip) if clip is not None), default=None)

    # ---- the set-up ------------------------------------------------------------------------------------------------

    def use(
        self,
        *,
        train_loader: TrainLoader,
        validation_loader: Iterable[tuple[Tensor, Tensor]] | None,
        precision: str,
        seed: int,
    ) -> None:
        """Give the stage its batches, its precision ("32" or "bf16") and its seed."""
        self.train_loader, self.validation_loader = train_loader, validation_loader
        self.precision_name, self.seed = precision, seed

    def further_batches(self, number: int, images: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The first training batches of an epoch that is not trained on, one for each `number`: as many as `images`
        fill, the last of them whole; None: all.
        """
        loader = copy.copy(self.train_loader)  # the place of the training stays where it is
        if process_count() == 1:  # after a training in several, of which each has had its share
            loader.rank, loader.world_size = 0, 1
        loader.seek(UNTRAINED + number)
        count = None if images is None else math.ceil(images / self.batch_size)
        return itertools.islice(itertools.chain.from_iterable(loader for _ in range(loader.parts)), count)

    def estimate_norms(self, network: nn.Module, images: int = 2048) -> None:
        """Batch-norm statistics of `network` anew, from so many training images: their mean, or, where polynomials are
        held, their median over batches.

        Batch norms that its forward pass does not reach, those of other widths or routes, keep theirs.
        """
        norms = [module for module in network.modules() if isinstance(module, NORMS)]
        former = [copy.deepcopy(norm.state_dict()) for norm in norms]
        estimate = update_bn if self.polynomials is None else median_norms
        estimate(self.further_batches(self.current_epoch, images), network)
        for norm, state in zip(norms, former, strict=True):
            if norm.track_running_stats and not norm.num_batches_tracked:
                norm.load_state_dict(state)

    # ---- what Lightning says of the training, once `train_by` has connected the stage with it ------------------------

    def train_by(self, module: Any) -> None:
        """`module`: the LightningModule that hands Lightning's calls on to this stage (training/lightning.py)."""
        self._trained_by = (module,)  # a tuple hides it from Module's registration

    @property
    def trainer(self) -> Any:
        """Lightning's Trainer; None where the stage is not trained."""
        return self._trained_by[0].trainer if self._trained_by else None

    @property
    def current_epoch(self) -> int:
        return self._trained_by[0].current_epoch if self._trained_by else 0

    @property
    def batches_of_step(self) -> int:
        """Batches whose gradients make one step (trainer.lightning.accumulate_grad_batches)."""
        trainer = self._trained_by[0]._trainer if self._trained_by else None  # None: outside of a fit
        return trainer.accumulate_grad_batches if trainer else 1

    @property
    def global_step(self) -> int:
        return self._trained_by[0].global_step if self._trained_by else 0

    def optimizers(self) -> Any:
        return self._trained_by[0].optimizers()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def epochs_before(self, batch_index: int) -> float:
        """Epochs before this batch of the present segment, a fraction."""
        epoch, segment = self.position
        return epoch + (segment + (batch_index + 0.5) / len(self.train_loader)) / self.segments

    def on_fit_start(self) -> None:
        for network in self._frozen:
            network.to(self.device)

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, segment) that is trained now, both from 0."""
        return divmod(self.current_epoch, self.segments)

    # ---- the loop, in the order it runs ----------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._segment_started = time.monotonic()
        self.sums.to(self.device)  # a checkpoint is read before Lightning moves the module
        for owner, name in self._saved():
            if isinstance(value := getattr(owner, name), Tensor):
                setattr(owner, name, value.to(self.device))
        if (state := self._generator_state.get(self.device.type)) is not None:  # another kind of device has its own
            global_generator(self.device).set_state(state)
        self.trainer.should_stop |= self._stopped
        self._most_batches = self.trainer.fit_loop.max_batches
        self._tell_batches()

    def on_train_epoch_start(self) -> None:
        """Not called where a checkpoint of the middle of a segment is resumed."""
        epoch, segment = self.position
        self._segment_started = time.monotonic()
        self.train_loader.seek(epoch, segment)
        # Only networks with dropout draw from the global generator; this makes it a function of the position.
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch + process_rank() * 2**40) % 2**63)
        self.set_learning_rate(epoch)
        self._tell_batches()
        self.sums.begin_segment(first_of_epoch=segment == 0)

    def _tell_batches(self) -> None:
        """Lightning counts those of the longest segment: a shorter one would end without the step that waits."""
        accumulates = self.batches_of_step > 1
        batches = self.train_loader.batches_of(self.position[1]) if accumulates else self._most_batches
        self.trainer.fit_loop.max_batches = max(1, min(self._most_batches, batches))

    def set_learning_rate(self, epoch: int) -> None:
        period = self.period or self.epochs
        for group in self.optimizers().param_groups:
            base = group.get("base_learning_rate", self.base_learning_rate)
            group["lr"] = learning_rate(base, self.schedule, epoch % period, period, self.milestones, self.gamma)

    def share_before(self, batch_index: int) -> float:
        """Of the training, or of its present period, that lies before this batch: what polynomials come in by."""
        period = self.period or self.epochs
        return self.epochs_before(batch_index) % period / period

    def step_loss(self, batch_index: int, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, with the error of the network's polynomials where they are held."""
        held = self.polynomials
        if held is None:
            return self.loss(*batch)
        with held.step(self.share_before(batch_index), self.device):
            loss, metrics = self.loss(*batch)
        if not held.error_weight:
            return loss, metrics
        error = held.error
        return loss + held.error_weight * error, {**metrics, "polynomial_error": error.detach()}

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        loss, metrics = self.step_loss(batch_index, *batch)
        self.sums.add({"loss": loss.detach(), **metrics}, len(batch[0]), self.global_step)
        return loss

    def on_before_optimizer_step(self) -> None:
        if self.clip is not None:
            learning = [weight for weight in self.parameters() if weight.grad is not None]
            nn.utils.clip_grad_norm_(learning, self.clip)

    def on_train_epoch_end(self) -> None:
        epoch, segment = self.position
        if (bad_step := self.sums.bad_step()) is not None:
            raise Diverged(
                f"the loss of stage {self.name} became NaN or infinite at step {bad_step} (epoch {epoch}); "
                f"lower {self.config_key}.learning_rate or use trainer.precision=32"
            )
        # The last step's loss is finite even if the weights that it leaves are not.
        if not torch.stack([torch.isfinite(weight).all() for weight in self.network.parameters()]).all():
            raise Diverged(
                f"the weights of stage {self.name} became NaN or infinite at step {self.global_step - 1} "
                f"(epoch {epoch}); lower {self.config_key}.learning_rate"
            )
        last_of_epoch = segment == self.segments - 1
        if self.polynomials is not None and self.result_network is self.network and not self.routed:
            self.estimate_norms(self.network)
        average_batch_norms(self.network)
        self.sums.share(last_of_epoch, self.device)
        self.segment_end(last_of_epoch)
        if last_of_epoch:
            self._finish_epoch(epoch)
        self.set_learning_rate((self.current_epoch + 1) // self.segments)  # for callbacks, which are called first there
        self._count_seconds()

    def between_epochs(self) -> None:
        """What is left to do when a segment has ended; what takes long calls `pause` on the way."""

    def pause(self) -> None:
        """Save the training as it is, where that is due or a signal has come."""
        if self._trained_by:
            self._trained_by[0].pause()

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.seconds, self._segment_started = self.seconds + now - self._segment_started, now

    def _finish_epoch(self, epoch: int) -> None:
        row: dict[str, float] = {"epoch": epoch}
        row |= {f"train/{key}": value for key, value in self.sums.means().items()}
        row["lr"] = self.optimizers().param_groups[0]["lr"]
        if self.validation_loader is not None:
            row["val/accuracy"] = accuracy(self.result_network, self.validation_loader, self.precision_name)
        self.close_epoch(row)
        row["seconds"] = round(self.seconds + time.monotonic() - self._segment_started, 3)
        self.history.append(row)

    def close_epoch(self, row: dict[str, float]) -> None:
        """Further validation, the choice of weights by `score` and the stage's own columns, in this order."""
        if "val/accuracy" in row:
            self.validate(row)
            score = self.score(row)
            if self.selection != "last" and score is not None and score > self.best["score"]:
                self.best = {"score": score, "epoch": int(row["epoch"]), "weights": self.weights()}
        self.epoch_end(row)

    # ---- the result ------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU of the weights that are trained now, under the backbone's own names."""
        state = inner_network(self.result_network).state_dict()
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    def selected(self) -> tuple[dict[str, Tensor], int | None]:
        """The weights that `selection` picks and the epoch they come from; without epochs as they are, None."""
        if not self.epochs:
            return self.weights(), None
        if self.selection == "last" or self.best["weights"] is None:  # stopped before an epoch that is a candidate
            return self.weights(), len(self.history) - 1 if self.history else None
        return self.best["weights"], self.best["epoch"]

    def variants(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The state dict of each of `variant_fractions` in `weights`, as `weights()` and `selected()` give them."""
        return {"": weights}

    @property
    def variant_fractions(self) -> dict[str, float]:
        """Name -> share of the channels of each network that the stage leaves; "" is the full one."""
        return {"": 1.0}

    # ---- checkpoints: plain types and tensors only, so that weights_only loading suffices --------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._count_seconds()
        checkpoint["stage"] = {
            "history": copy.deepcopy(self.history),
            "best": dict(self.best),
            "seconds": self.seconds,
            **self.sums.state(),
            "generator": {self.device.type: global_generator(self.device).get_state()},
            "stopped": getattr(self.trainer, "should_stop", False),
        }
        checkpoint["search"] = {name: copy.copy(getattr(owner, name)) for owner, name in self._saved()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["stage"]
        self.history, self.best, self.seconds = state["history"], state["best"], state["seconds"]
        self.sums.load(state)
        self._stopped = state.get("stopped", False)
        self._generator_state = state["generator"]
        saved = checkpoint["search"]  # of an earlier version perhaps, without what has its default since
        for owner, name in self._saved():
            if name in saved:
                setattr(owner, name, saved[name])

    def _saved(self) -> Iterator[tuple[Any, str]]:
        """Of each of SAVED the object and the name of its attribute."""
        for path in self.SAVED:
            *owners, name = path.split(".")
            yield functools.reduce(getattr, owners, self), name


def global_generator(device: torch.device) -> torch.Generator:
    """From which dropout draws."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator

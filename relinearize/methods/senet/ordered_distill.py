"""SENet++: fine-tuning with ordered dropout. One training leaves a network for each width, on the same weights.

    L = sum over widths s of (gamma * CE_s + alpha * T^2 KL_s + beta * PRAM_s)

Every width runs on every batch, each with SENet's terms against the same outputs of the all-ReLU teacher. No training
loop of SENet++ is public; the sum over widths is how the paper is remembered.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.methods.losses import accuracy
from relinearize.methods.senet.ordered import OneWidth, OrderedNetwork
from relinearize.methods.senet.pram import PRAMDistill
from relinearize.methods.senet.site_outputs import SiteOutputs


class OrderedDistill(PRAMDistill):
    """Fine-tunes a linearized `network` and its narrower versions on shared weights; see OrderedNetwork.

    Metrics of the full width have PRAMDistill's names, those of a narrower one its width behind them: `accuracy_0.5`.
    `selection: best` takes the epoch of the highest mean of the widths' accuracies (`val/accuracy_mean`): all widths
    come from one set of weights, hence from one epoch.

    Args:
        network: linearized, of full width; its masks do not change and are cut for the narrower widths.
        teacher: of full width. Attention maps are means over channels and compared as they are; activations with the
            teacher's first channels.
        narrower: from a fraction below 1 to a new network of that width, all ReLUs kept.

    Settings: conf/method/finetune/senetpp.yaml. Raises UserError for widths that the network does not allow.
    """

    narrows = True

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        *,
        narrower: Callable[[float], nn.Module],
        widths: Sequence[float] = (0.5, 1.0),
        **pram_settings: Any,
    ) -> None:
        try:
            ordered = OrderedNetwork(network, narrower, widths)
        except UserError as error:
            raise UserError(f"{self.config_key}.widths={widths}: {error}") from error
        super().__init__(network, teacher, **pram_settings)
        self.network = ordered
        self._outputs = {1.0: self._student_outputs}
        for width in ordered.widths[:-1]:
            self._outputs[width] = SiteOutputs(ordered.at(width), self.compared_sites)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self.teacher_outputs(images)
        losses, metrics = [], {}
        for width in self.network.widths:
            found = self._outputs[width].run(OneWidth(self.network, width), images)
            loss, of_width = self.compared(found, wanted, labels)
            losses.append(loss)
            metrics |= {key + suffix(width): value for key, value in of_width.items()}
        return torch.stack(losses).sum(), metrics

    def validate(self, row: dict[str, float]) -> None:
        for width in self.network.widths[:-1]:
            found = accuracy(OneWidth(self.network, width), self.validation_loader, self.precision_name)
            row[f"val/accuracy{suffix(width)}"] = found
        found = [row[f"val/accuracy{suffix(width)}"] for width in self.network.widths]
        row["val/accuracy_mean"] = sum(found) / len(found)

    def score(self, row: dict[str, float]) -> float:
        return row["val/accuracy_mean"]

    # ---- the networks that it leaves -------------------------------------------------------------------------------

    @property
    def variant_fractions(self) -> dict[str, float]:
        """Name of each network that the stage leaves -> its width; "" is the full one: {"": 1.0, "width-0.5": 0.5}."""
        widths = sorted(self.network.widths, reverse=True)
        return {"" if width == 1.0 else f"width-{width:g}": width for width in widths}

    def variants(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """From `weights()` or `selected()`: for each of `variant_fractions` the weights of the ordinary network.

        They carry the names of the backbone of that width, and fit it.
        """
        return {name: self.network.weights_at(weights, width) for name, width in self.variant_fractions.items()}


def suffix(width: float) -> str:
    """What stands behind the names of a width's metrics; nothing for the full one."""
    return "" if width == 1.0 else f"_{width:g}"

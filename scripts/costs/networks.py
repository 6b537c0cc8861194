"""The networks that the cost models are fitted to and tested on: random weights, masks of every kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from relinearize.backbones import build_backbone
from relinearize.private_inference.bundle import Bundle, export
from relinearize.relu.sites import linearize, site_shapes

IMAGES = 5  # of random pixels in each bundle: the most that are inferred with it


@dataclass(frozen=True)
class Subject:
    """One network. share: of the positions of its live sites, kept at random; live: "all" sites, "none", every
    "second", or the "last" three in ten. tested: the constants never see it. messages: whether Cheetah's messages are
    fitted to it, on slow networks.
    """

    name: str
    backbone: str
    width: int
    pixels: int
    share: float
    live: str = "all"
    tested: bool = False
    messages: bool = False
    large: bool = False

    def export(self, folder: Path) -> Bundle:
        """Write the bundle to `folder`, which does not exist. Always the same for one name."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build_backbone(self.backbone, classes=10, image_size=self.pixels, width=self.width)
            size = (3, self.pixels, self.pixels)
            network = linearize(network.eval(), size)
            masks = self.masks(site_shapes(network))
            images = torch.rand(IMAGES, *size)
            return export(network, folder, input_size=size, mask=masks, images=images)

    def masks(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Exactly the share of each live site, at positions of torch's generator."""
        found = {}
        for index, (name, shape) in enumerate(shapes.items()):
            mask = torch.zeros(shape, dtype=torch.bool)
            if self._lives(index, len(shapes)):
                kept = round(self.share * mask.numel())
                mask.view(-1)[torch.randperm(mask.numel())[:kept]] = True
            found[name] = mask
        return found

    def _lives(self, index: int, sites: int) -> bool:
        lives = {"all": True, "none": False, "second": index % 2 == 0, "last": index >= 0.7 * sites}
        return lives[self.live]


SUBJECTS = (
    Subject("digits, all", "resnet8", 16, 8, 1.0, messages=True),
    Subject("digits, 10 %", "resnet8", 16, 8, 0.1, tested=True),
    Subject("digits, half the sites", "resnet8", 16, 8, 0.5, live="second"),
    Subject("digits, none", "resnet8", 16, 8, 0.0, live="none", messages=True),
    Subject("resnet8, all", "resnet8", 16, 32, 1.0),
    Subject("resnet8, none", "resnet8", 16, 32, 0.0, live="none"),
    Subject("resnet8 wide, 10 %", "resnet8", 64, 16, 0.1),
    Subject("resnet8 middle, 25 %, half the sites", "resnet8", 32, 32, 0.25, live="second"),
    Subject("resnet18, all", "resnet18", 16, 32, 1.0),
    Subject("resnet18 middle, 10 %", "resnet18", 32, 32, 0.1, tested=True, large=True),
    Subject("resnet18 wide, 16 pixels, 25 %", "resnet18", 64, 16, 0.25, large=True),
    Subject("resnet18 at 48, 25 %, half the sites", "resnet18", 48, 32, 0.25, live="second", large=True),
    Subject("resnet18 wide, 10 %", "resnet18", 64, 32, 0.1, tested=True, large=True),
)
QUICK = ("digits, all", "digits, 10 %", "digits, half the sites", "digits, none", "resnet8 wide, 10 %")

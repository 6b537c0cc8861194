"""The frozen copy answers as the network does and leaves the network alone."""

import copy

import pytest
import small_stages
import torch
import torch.nn.functional as F
from torch import nn

from relinearize.methods.frozen import frozen_copy
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.sites import linearize, named_sites


def pixel_network(name, size, width):
    return small_stages.pixel_network(name, width, size).double()


@pytest.mark.parametrize(("name", "width"), [("resnet8", 4), ("resnet18", 4), ("wrn22_8", 1), ("vgg16_bn", 4)])
def test_answers_are_those_of_the_network(name, width):
    network = pixel_network(name, 16, width)
    before = copy.deepcopy(network.state_dict())
    frozen = frozen_copy(network)
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    kept = images.clone()
    torch.testing.assert_close(frozen(images), network.eval()(images), rtol=1e-10, atol=1e-10)
    assert torch.equal(images, kept)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_nothing_of_it_is_trained():
    network = pixel_network("resnet8", 8, 4).train()
    frozen = frozen_copy(network)
    assert not frozen.training and network.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_every_batch_norm_of_a_resnet_and_every_full_mask_is_gone():
    frozen = frozen_copy(pixel_network("resnet18", 8, 4))
    assert not any(isinstance(module, nn.BatchNorm2d | MaskedReLU) for module in frozen.modules())


def test_masks_that_are_not_full_stay():
    network = pixel_network("resnet8", 8, 4)
    name, site = next(iter(named_sites(network).items()))
    site.mask[0] = False
    frozen = frozen_copy(network)
    assert list(named_sites(frozen)) == [name]
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(frozen(images), network.eval()(images), rtol=1e-10, atol=1e-10)


class Branching(nn.Module):
    """A convolution whose output is also used without its batch norm, and a ReLU input that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.relu, self.last = MaskedReLU((3, 4, 4)), MaskedReLU((3, 4, 4), 1)

    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        return self.last(self.relu(z) + z + y)


class BranchingByDefault(Branching):
    """By an argument that images come without."""

    def forward(self, x, more=None):
        y = self.conv(x)
        z = self.bn(y)
        return self.last(self.relu(z) + (y if more is None else more))


class Untraceable(Branching):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


@pytest.mark.parametrize("kind", [Branching, BranchingByDefault, Untraceable])
def test_shared_results_and_untraceable_networks(kind):
    torch.manual_seed(1)
    network = kind()
    network.bn.running_mean.normal_()
    network.bn.running_var.uniform_(0.5, 2.0)
    frozen = frozen_copy(network)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(frozen(images), network.eval()(images))
    assert isinstance(frozen.bn, nn.BatchNorm2d)


class AddsInPlace(Branching):
    """What was added to is read again under another name, or through a view."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view

    def forward(self, x):
        kept = self.conv(x)
        out = kept[:] if self.view else kept
        out += x
        return self.last(self.bn(self.relu(out)) - kept)


@pytest.mark.parametrize("view", [True, False])
def test_what_an_addition_in_place_leaves_is_not_written_over(view):
    network = AddsInPlace(view).eval()
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(frozen_copy(network)(images), network(images))


def test_relus_behind_the_additions_of_a_resnet_work_in_place():
    frozen = frozen_copy(pixel_network("resnet18", 8, 4))
    assert all(module.inplace for module in frozen.modules() if isinstance(module, nn.ReLU))


class ReadsItsWeight(nn.Module):
    """Beside the layer's call, which a batch norm follows."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(self.layer(x)) + F.conv2d(x, self.layer.weight, padding=2, dilation=2))


def test_layers_whose_weight_is_read_elsewhere_stay():
    network = linearize(ReadsItsWeight(), (3, 8, 8))
    network.norm.running_var.fill_(4.0)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(frozen_copy(network)(x), network.eval()(x))


def test_copies_are_bit_for_bit_the_same():
    network = pixel_network("resnet18", 8, 4).float()
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(frozen_copy(network)(images), frozen_copy(network)(images))

"""From torch networks to bundles: what is folded, which networks go, and what is refused by name."""

from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from bundles import MEAN, STD, after_training, linearized, some_kept
from torch import nn

from relinearize.backbones import PixelInput
from relinearize.backbones.routes import on_route, with_routes
from relinearize.errors import UserError
from relinearize.private_inference.bundle import export, exporting, read_bundle, run_bundle
from relinearize.private_inference.bundle.bundle import worst_difference
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.relu.mask import Mask
from relinearize.relu.sites import linearize, to_masked, to_replaced

SIZE = (3, 16, 16)


def operations(bundle):
    return Counter(node.op for node in bundle.nodes)


def test_batch_norms_are_folded_and_strides_taken_back():
    bundle = as_bundle(linearized("resnet18"), SIZE)
    counts = {"conv2d": 20, "masked_relu": 17, "add": 8, "global_avg_pool": 1, "flatten": 1, "linear": 1}
    assert operations(bundle) == {"normalize": 1, **counts}
    shortcuts = [node for node in bundle.nodes if node.op == "conv2d" and "shortcut" in node.name]
    assert [node.attributes["stride"] for node in shortcuts] == [[2, 2]] * 3


def test_batch_norms_behind_additions_stay():
    found = operations(as_bundle(linearized("wrn22_8", 1), SIZE))
    assert (found["conv2d"], found["masked_relu"], found["affine"], found["add"]) == (22, 19, 9, 9)


def test_the_network_stays_as_it_is():
    network = some_kept(linearized("resnet8")).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    masks = Mask.of(network.network)
    bundle = as_bundle(network, SIZE, mask=Mask.full(network.network))
    assert bundle.relus == masks.total and Mask.of(network.network) == masks and network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_wrappers_of_a_training_loop_are_taken_off():
    network = linearized("resnet8").network
    mask = Mask.full(network)
    for wrapped in (torch.nn.DataParallel(network), torch.compile(network)):
        assert as_bundle(wrapped, SIZE, mask=mask).relus == mask.total


def test_logits_that_are_not_finite_are_named():
    network = linearized("resnet8")
    network.network.linear.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="the network's logits are not finite for some of the first 8 images"):
        as_bundle(network, SIZE)


def squared(times):
    """A chain of squares, whose sites keep no ReLU."""
    chain = [layer for _ in range(times) for layer in (nn.Identity(), nn.ReLU())]
    network = linearize(nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), SIZE)
    square = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1).repeat(1, 3, 1, 1)
    to_replaced(network, {f"{site}.coefficients": square for site in Mask.of(network)})
    to_masked(network, Mask({site: ~kept for site, kept in Mask.of(network).items()}))
    return PixelInput(network, MEAN, STD).eval()


def test_polynomials_are_checked_near_the_mean_pixel_and_named_where_they_overflow():
    assert np.isfinite(as_bundle(squared(8), SIZE).reference.logits).all()
    images = torch.rand(8, *SIZE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"not finite .*polynomials at removed positions \(quadratic\) can overflow$"):
        as_bundle(squared(8), SIZE, images=images)


def test_polynomials_are_named_where_the_logits_differ(monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"in place .*, or do the polynomials at removed positions \(quadratic\) make"):
        as_bundle(squared(2), SIZE)


def test_the_client_normalises_first():
    first = as_bundle(linearized("resnet8"), SIZE).nodes[0]
    assert (first.op, first.inputs, first.shape) == ("normalize", ("input",), SIZE)
    assert first.attributes["mean"] == pytest.approx(MEAN) and first.attributes["std"] == pytest.approx(STD)
    assert as_bundle(linearized("resnet8").network, SIZE).nodes[0].op == "conv2d"


def test_a_pruned_network_is_exported():
    network = linearized("resnet8")
    torch.nn.utils.prune.l1_unstructured(network.network.conv1, "weight", 0.5)
    assert as_bundle(network, SIZE).relus == as_bundle(linearized("resnet8"), SIZE).relus


def test_images_and_labels_become_the_reference():
    network, images, labels = linearized("resnet8"), torch.rand(3, *SIZE), torch.tensor([4, 0, 1])
    reference = as_bundle(network, SIZE, images=images.requires_grad_(), labels=labels).reference
    images = images.detach()
    with torch.no_grad():
        assert np.array_equal(reference.logits, network(images).numpy())
    assert np.array_equal(reference.images, images.numpy()) and reference.labels.tolist() == [4, 0, 1]


@pytest.mark.slow
def test_a_network_of_torchvision(tmp_path):
    torch.manual_seed(0)
    model = after_training(torchvision.models.resnet18(weights=None, num_classes=7))
    bundle = export(model, tmp_path / "b", input_size=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    found = run_bundle(read_bundle(tmp_path / "b"), images.numpy())
    with torch.no_grad():
        assert np.abs(found - model(images).numpy()).max() < 1e-5 * np.abs(found).max()
    counts = operations(bundle)
    assert (counts["conv2d"], counts["max_pool"], counts["affine"]) == (20, 1, 0)
    assert bundle.relus == Mask.full(linearize(model, (3, 32, 32))).total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "densenet121"])
def test_further_networks_of_torchvision(name):
    torch.manual_seed(0)
    network = linearize(getattr(torchvision.models, name)(weights=None, num_classes=7), (3, 64, 64))
    mask = {site: torch.rand(kept.shape) < 0.3 for site, kept in Mask.full(network).items()}
    bundle = as_bundle(after_training(network), (3, 64, 64), mask=mask)
    assert bundle.kept == Mask(mask).counts and worst_difference(bundle) < 1e-4


def test_one_route_of_several():
    plain = linearized("resnet8")
    routed = PixelInput(with_routes(plain.network, ("clean", "adversarial")), MEAN, STD).eval()
    for name, module in routed.named_modules():
        if name.endswith(".adversarial"):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_()
    with pytest.raises(UserError, match="several batch-norm routes; give route=clean or route=adversarial"):
        as_bundle(routed, SIZE)
    with pytest.raises(UserError, match="augmix"):
        as_bundle(routed, SIZE, route="augmix")
    images, answers = torch.rand(3, *SIZE), {}
    for route in ("clean", "adversarial"):
        answers[route] = run_bundle(as_bundle(routed, SIZE, route=route), images.numpy())
        with on_route(routed, route), torch.no_grad():
            assert np.allclose(answers[route], routed(images).numpy(), atol=1e-5)
    assert np.abs(answers["clean"] - answers["adversarial"]).max() > 0.01


def test_an_existing_folder_is_not_touched(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        export(linearized("resnet8"), tmp_path, input_size=SIZE)


class Head(nn.Module):
    """Convolution, ReLU, what is to be tried, mean, linear."""

    def __init__(self, middle, channels=4):
        super().__init__()
        self.first, self.relu, self.middle = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), middle
        self.last = nn.Linear(channels, 2)

    def forward(self, x):
        return self.last(self.middle(self.relu(self.first(x))).mean((2, 3)))


class Does(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


F = nn.functional
KNOWN = {
    "grouped, dilated, uneven": nn.Conv2d(4, 4, (3, 5), (2, 1), (2, 1), dilation=2, groups=2, bias=False),
    "same padding": nn.Conv2d(4, 4, 3, padding="same", dilation=2),
    "padded averages": nn.AvgPool2d(3, 2, 1),
    "functional averages": Does(lambda x: F.avg_pool2d(x, 2)),
    "padded maxima": nn.MaxPool2d(3, 2, 1),
    "averages over the whole side": Does(lambda x: F.avg_pool2d(x, x.size()[3])),
    "averages over the whole map": Does(lambda x: F.avg_pool2d(x, x.shape[2:])),
    "functional maxima": Does(lambda x: F.max_pool2d(x, kernel_size=2, stride=1)),
    "adaptive averages": nn.AdaptiveAvgPool2d((4, 2)),
    "adaptive to the same size": nn.AdaptiveAvgPool2d(16),
    "dropout and identity": nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Dropout2d(0.2)),
    "two batch norms in a row": nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)),
    "a convolution that feeds two": Does(lambda x: x + x),
    "subsampling alone": nn.AvgPool2d(1, 2),
    "functional dropout": Does(lambda x: F.dropout(x, 0.5, False).contiguous()),
    "in place, read by nobody else": Does(lambda x: x.add_(x)),
    "arguments by name": Does(
        lambda x: torch.add(input=x, other=torch.cat([x], axis=1)).mean(axis=(2, 3), keepdim=True)
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_bundle_knows(name):
    torch.manual_seed(0)
    bundle = as_bundle(after_training(Head(KNOWN[name])), SIZE)
    assert worst_difference(bundle) < 1e-5
    affine, pooled = operations(bundle)["affine"], operations(bundle)["avg_pool"]
    assert affine == (name == "two batch norms in a row")  # one of the two is left: they follow a ReLU
    assert pooled == ("averages" in name or name == "subsampling alone")


def test_ways_of_flattening():
    by_name = Does(lambda x: torch.reshape(input=x, shape=(x.size(0), -1)))
    for flatten in (nn.Flatten(), Does(lambda x: x.view(x.size(0), -1)), Does(lambda x: torch.flatten(x, 1)), by_name):
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), flatten, nn.Linear(4 * 14 * 14, 2), nn.BatchNorm1d(2))
        bundle = as_bundle(after_training(layers), SIZE)
        assert [node.op for node in bundle.nodes] == ["conv2d", "masked_relu", "flatten", "linear"]


@pytest.mark.parametrize(
    "squeeze",
    [lambda x: x.squeeze(), lambda x: x.squeeze(-1).squeeze(-1), lambda x: torch.squeeze(x, dim=(2, 3))],
)
def test_a_map_of_one_pixel_can_be_squeezed(squeeze):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), Does(squeeze), nn.Linear(4, 2))
    bundle = as_bundle(layers, SIZE, images=torch.rand(51, *SIZE))  # the last one is computed alone
    assert [node.op for node in bundle.nodes] == ["conv2d", "masked_relu", "global_avg_pool", "flatten", "linear"]


class Decides(Head):
    """By an argument that images come without, and by the size of the map."""

    def forward(self, x, scale=None, train=False):
        assert x.shape[1] == 3 and x.ndim == 4 and x.shape[-1] % 2 == 0 and x.shape[2] > 0
        if scale is not None or train:
            x = x * scale
        x = self.relu(self.first(x))
        if x.shape[-1] > 8:
            x = F.avg_pool2d(x, 2)
        batch, channels, *_ = x.shape
        return self.last(self.middle(x).mean((2, 3)).view(batch, channels))


def test_a_forward_may_have_optional_arguments_and_decide_by_sizes():
    torch.manual_seed(0)
    network = after_training(Decides(nn.Conv2d(4, 4, 3)))
    for size, pools in ((SIZE, 1), ((3, 8, 8), 0)):
        bundle = as_bundle(network, size)
        assert worst_difference(bundle) < 1e-5 and operations(bundle)["avg_pool"] == pools


UNKNOWN = {
    "a product": (Does(lambda x: x * x), "mul .*no operation of a bundle does this; known: normalize, conv2d"),
    "a sigmoid": (nn.Sigmoid(), "Sigmoid at middle"),
    "reflection": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "Conv2d at middle.*padding_mode=reflect"),
    "uneven zeros": (nn.Conv2d(4, 4, 2, padding="same"), "Conv2d at middle.*padding=same"),
    "ceiling": (nn.MaxPool2d(3, 2, ceil_mode=True), r"MaxPool2d at middle.*gives \(4, 8, 8\)"),
    "dilated maxima": (nn.MaxPool2d(2, dilation=2), "MaxPool2d.*dilation"),
    "uncounted zeros": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "count_include_pad"),
    "uneven windows": (nn.AdaptiveAvgPool2d(5), "windows differ in size"),
    "more than there is": (nn.AdaptiveAvgPool2d((20, 16)), r"from \(16, 16\) to \(20, 16\): larger than the map"),
    "a batch's own statistics": (nn.BatchNorm2d(4, track_running_stats=False), "no running statistics"),
    "a constant": (Does(lambda x: x + 1), "add.*1 is no map"),
    "a weighted sum": (Does(lambda x: torch.add(x, x, alpha=2)), "alpha"),
    "rows for channels": (Does(lambda x: torch.cat([x, x], 2)), "dim=2"),
    "a mean over channels": (Does(lambda x: x - x.mean(1, True)), "mean .*height and width"),
    "a mean over everything": (Does(lambda x: x - x.mean(dim=None)), "mean .*height and width"),
    "the batch's size": (Does(lambda x: x if x.size(0) == 2 else -x), "cannot trace it"),
    "a squeezed side": (Does(lambda x: F.avg_pool2d(x, (16, 1)).squeeze(2).unsqueeze(2)), "squeeze.*change of shape"),
    "a shuffle": (Does(lambda x: x.view(-1, 2, 2, 16, 16).flatten(1, 2)), "change of shape"),
    "a loop over data": (Does(lambda x: x if x.sum() > -1e9 else -x), "cannot trace it"),
}


@pytest.mark.filterwarnings("ignore:not ReLUs", "ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_a_bundle_does_not_know_is_refused_by_name(name):
    middle, message = UNKNOWN[name]
    with pytest.raises(UserError, match=message) as caught:
        as_bundle(after_training(Head(middle)), SIZE)
    assert "\n" not in str(caught.value)


class Overwritten(Head):
    """Adds to a map in place that is read again by another name, which no trace sees."""

    def forward(self, x):
        x = self.relu(self.first(x))
        same = x
        x += x
        return self.last(same.mean((2, 3)) + x.mean((2, 3)))


class TwoResults(Head):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Overwritten, r"logits differ from torch's by .* of the largest.*in place"),
        (TwoResults, "not one tensor of N x classes"),
    ],
)
def test_what_says_something_else_than_torch_is_refused(kind, message):
    with pytest.raises(UserError, match=message):
        as_bundle(kind(nn.Identity()), SIZE)

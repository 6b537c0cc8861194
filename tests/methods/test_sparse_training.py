"""Computed sensitivities: which layer belongs to which site, the pruning rule, and the densities it leaves."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from relinearize.backbones import PixelInput, build_backbone
from relinearize.backbones.sphynx import build_sphynx
from relinearize.data.loaders import TrainLoader
from relinearize.data.training_images import ResidentImages
from relinearize.errors import UserError
from relinearize.methods.senet.sparse_training import PrunedWeight, SparseTraining, density_after, site_layers
from relinearize.relu.budget import top_positions
from relinearize.relu.sites import linearize, site_shapes
from relinearize.training.fit import fit
from relinearize.training.settings import TrainerSettings

SETTINGS = TrainerSettings.resolve(
    accelerator="cpu", precision="32", compile=False, checkpoint_seconds=0, progress="none"
)


# ---- which layer belongs to which site ---------------------------------------------------------------------------


def expected_layers(backbone, convention):
    """Site -> layer, written down from the papers' networks."""
    if backbone == "vgg16_bn":
        blocks = enumerate((2, 2, 3, 3, 3), start=1)
        names = [f"{block}_{number}" for block, count in blocks for number in range(1, count + 1)]
        return {f"features.relu{name}": f"features.conv{name}" for name in names}
    if backbone == "wrn22_8":  # pre-activation: a block's first ReLU follows the convolution before the block
        blocks = [f"block{stage}.{number}" for stage in (1, 2, 3) for number in range(3)]
        result = {"block1.0.relu1": "conv1"}
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            result[f"{block}.relu2"] = f"{block}.conv1"
            if following or convention == "senet":
                result[f"{following}.relu1" if following else "relu"] = f"{block}.conv2"
        return result
    stages, count = {"resnet8": (3, 1), "resnet18": (4, 2)}[backbone]
    names = [
        f"layer{stage}.{number}.{{}}{place}"
        for stage in range(1, stages + 1)
        for number in range(count)
        for place in (1, 2)
    ]
    stem = {"relu1": "conv1"} if convention == "senet" else {}
    return stem | {name.format("relu"): name.format("conv") for name in names}


@pytest.mark.parametrize("convention", ["senet", "snl"])
@pytest.mark.parametrize("backbone", ["resnet8", "resnet18", "wrn22_8", "vgg16_bn"])
def test_layers_in_front_of_sites(backbone, convention):
    """No 1x1 shortcut, no classifier; under snl the ResNets' stem leads into no site of its own."""
    network = build_backbone(backbone, classes=10, image_size=32, width=4, convention=convention)
    network = PixelInput(linearize(network, (3, 32, 32)), (0.5,) * 3, (0.2,) * 3).train()
    before = copy.deepcopy(network.state_dict())
    found = site_layers(network, torch.zeros(1, 3, 32, 32))
    assert found == site_layers(network, torch.rand(1, 3, 32, 32), direct=True) == expected_layers(backbone, convention)
    assert list(found) == list(site_shapes(network.network))
    assert all(module.training and not module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_layers_of_bottleneck_blocks():
    """torchvision's ResNet-50: the 1x1 convolutions of the blocks count, those of the shortcuts do not."""
    network = linearize(torchvision.models.resnet50(weights=None, num_classes=4), (3, 32, 32))
    found = site_layers(network, torch.zeros(1, 3, 32, 32))
    assert len(found) == 49 and len(set(found.values())) == 49
    assert not any("downsample" in layer for layer in found.values())
    assert [found["layer2.0.relu"], found["layer2.0.relu_1"], found["layer2.0.relu_2"]] == [
        "layer2.0.conv1", "layer2.0.conv2", "layer2.0.conv3",
    ]  # fmt: skip


def test_the_layer_whose_filters_are_the_channels_of_a_site():
    """A cell of Sphynx has larger convolutions inside than the one whose outputs its ReLU reads."""
    network = linearize(build_sphynx(10, 32, 3, relus=25_600), (3, 32, 32))
    largest, direct = (site_layers(network, torch.rand(1, 3, 32, 32), direct=direct) for direct in (False, True))
    assert set(direct.values()) == {f"cells.{cell}.join.0" for cell in range(5)}
    assert not set(direct.values()) & set(largest.values())
    assert all(weight.grad is None for weight in network.parameters())


def test_sites_without_a_layer_of_their_own():
    network = nn.Sequential(nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 9), nn.ReLU(), nn.Dropout(0.1), nn.ReLU())
    found = site_layers(linearize(network, (4,)), torch.zeros(1, 4))
    assert found == {"0": "2", "3": "2", "5": "2"}
    with pytest.raises(UserError, match="no convolution or linear layer"):
        site_layers(linearize(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), (4,)), torch.zeros(1, 4))


# ---- the rule ------------------------------------------------------------------------------------------------------


def test_density_follows_the_cubic():
    """Zhu and Gupta: sparsity s_f * (1 - (1 - t)^3) from none to s_f."""
    for progress in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert density_after(progress, 0.1) == pytest.approx(1 - 0.9 * (1 - (1 - progress) ** 3))
    assert density_after(1.7, 0.1) == density_after(1, 0.1) == pytest.approx(0.1)


def test_largest_is_exact_over_all_layers_and_under_ties():
    weights = {"a": torch.tensor([[0.0, -3.0], [1.0, 2.0]]), "b": torch.tensor([-2.0, 2.0, 0.5])}
    expected = {
        0: ([0, 0, 0, 0], [0, 0, 0]),
        1: ([0, 1, 0, 0], [0, 0, 0]),
        2: ([0, 1, 0, 1], [0, 0, 0]),
        3: ([0, 1, 0, 1], [1, 0, 0]),
        5: ([0, 1, 1, 1], [1, 1, 0]),
        7: ([1, 1, 1, 1], [1, 1, 1]),
    }
    for count, (first, second) in expected.items():
        kept = top_positions({name: weight.abs() for name, weight in weights.items()}, count)
        assert kept["a"].flatten().int().tolist() == first and kept["b"].int().tolist() == second, count
    images = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).round()
    striped = {"a": images.to(memory_format=torch.channels_last)}
    for count in (1, 30, 80):
        assert torch.equal(top_positions(striped, count)["a"], top_positions({"a": images}, count)["a"])


def test_pruned_weight_is_exact_and_its_gradient_goes_straight_through():
    weight = torch.tensor([1e-30, -3.3, 1e30, 0.1, -0.7], requires_grad=True)
    pruned = PrunedWeight(weight)
    pruned.kept.copy_(torch.tensor([True, False, False, True, True]))
    out = pruned(weight)
    assert out.tolist() == [weight[0].item(), 0.0, 0.0, weight[3].item(), weight[4].item()]
    out.backward(torch.arange(5.0))
    assert weight.grad.tolist() == [0, 1, 2, 3, 4]


class SmallNetwork(nn.Module):
    """conv - batch norm - ReLU - conv - ReLU - mean - linear."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(4, 3, 3), nn.ReLU()
        self.linear = nn.Linear(3, 3)

    def forward(self, images):
        features = self.relu2(self.conv2(self.relu1(self.bn1(self.conv1(images)))))
        return self.linear(features.mean((2, 3)))


def test_three_steps_equal_the_formulas():
    """float64: loss at the pruned weights, SGD with momentum and weight decay on the dense ones; others as usual."""
    torch.manual_seed(3)
    network = linearize(SmallNetwork(), (2, 7, 7)).double()
    rate, decay, density = 0.2, 1e-3, 0.3
    state = {key: value.detach().clone().requires_grad_() for key, value in network.named_parameters()}
    stage = SparseTraining(
        network, density=density, pruning_share=1.0, updates_per_epoch=1, epochs=3, batch_size=6, learning_rate=rate,
        weight_decay=decay,
    )  # fmt: skip
    stage.prepare(torch.zeros(1, 2, 7, 7, dtype=torch.float64))
    optimizer = stage.configure_optimizers()
    stage.train()

    velocity = {key: torch.zeros_like(value) for key, value in state.items()}
    for segment in range(3):
        images, labels = torch.randn(6, 2, 7, 7, dtype=torch.float64), torch.randint(3, (6,))
        stage.prune(segment)
        optimizer.zero_grad()
        stage.loss(images, labels)[0].backward()
        optimizer.step()

        share = density + (1 - density) * (1 - (segment + 1) / 3) ** 3
        both = torch.cat([state["conv1.weight"].flatten(), state["conv2.weight"].flatten()]).detach().abs()
        threshold = both.sort(descending=True).values[round(share * len(both)) - 1]
        # The gradient is asked for at the pruned weights, which are leaves of their own.
        used = {
            key: (value * (value.abs() >= threshold) if key in ("conv1.weight", "conv2.weight") else value)
            .detach()
            .requires_grad_()
            for key, value in state.items()
        }
        features = torch.conv2d(images, used["conv1.weight"])
        mean, variance = features.mean((0, 2, 3)), features.var((0, 2, 3), unbiased=False)
        features = (features - mean.view(-1, 1, 1)) / (variance + 1e-5).sqrt().view(-1, 1, 1)
        features = (features * used["bn1.weight"].view(-1, 1, 1) + used["bn1.bias"].view(-1, 1, 1)).clamp(min=0)
        features = torch.conv2d(features, used["conv2.weight"], used["conv2.bias"]).clamp(min=0)
        logits = features.mean((2, 3)) @ used["linear.weight"].T + used["linear.bias"]
        loss = -torch.log_softmax(logits, 1)[torch.arange(6), labels].mean()
        gradients = torch.autograd.grad(loss, list(used.values()))
        for (key, value), gradient in zip(state.items(), gradients, strict=True):
            velocity[key] = 0.9 * velocity[key] + gradient + decay * value.detach()
            state[key] = value.detach() - rate * velocity[key]

    own = {
        key.replace("parametrizations.weight.original", "weight"): value for key, value in network.named_parameters()
    }
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.allclose(own[key], value, rtol=0, atol=1e-12), key


# ---- a training ------------------------------------------------------------------------------------------------------


def tiny_network():
    torch.manual_seed(1)
    backbone = build_backbone("resnet8", classes=3, image_size=8, width=4)
    return PixelInput(linearize(backbone, (3, 8, 8)), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(48) % 3
    pixels = torch.randint(0, 128, (48, 8, 8, 3), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    return ResidentImages(pixels.to(torch.uint8), labels)


class Watched(SparseTraining):
    """Notes the masks of each segment and stops after segment `stop_after`, as a kill there would."""

    stop_after = None

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.masks = []

    def segment_end(self, last_of_epoch):
        flat = [layer.parametrizations.weight[0].kept.flatten() for layer in self.pruned.values()]
        self.masks.append(torch.cat(flat).clone())
        if self.current_epoch == self.stop_after:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage"]["stopped"] = False


def trained(images, checkpoint, stop_after=None, **settings):
    values = {"density": 0.1, "pruning_share": 0.5, "updates_per_epoch": 2, "epochs": 4, **settings}
    stage = Watched(tiny_network(), batch_size=12, learning_rate=0.1, weight_decay=5e-4, **values)
    stage.stop_after = stop_after
    loader = TrainLoader(images, 12, seed=4, parts=stage.segments)
    stage.use(train_loader=loader, validation_loader=None, precision="32", seed=4)
    fit(stage, SETTINGS, checkpoint)
    return stage


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    return trained(images, tmp_path_factory.mktemp("sparse") / "last.ckpt")


def test_density_is_exact_and_is_what_the_weights_have(whole):
    weights = whole.selected()[0]
    layers = whole.layers.values()
    total = sum(weights[f"{layer}.weight"].numel() for layer in layers)
    # 3x3 convolutions of a ResNet-8 of width 4 without the shortcuts
    assert total == 9 * (3 * 4 + 4 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 16 + 16 * 16)
    assert sum(int(weights[f"{layer}.weight"].count_nonzero()) for layer in layers) == round(0.1 * total)
    for layer, density in whole.densities().items():
        assert density == pytest.approx(weights[f"{layer}.weight"].count_nonzero() / weights[f"{layer}.weight"].numel())
    assert weights["layer2.0.shortcut.0.weight"].all() and weights["linear.weight"].all()
    assert whole.history[-1]["density"] == pytest.approx(0.1, abs=1e-3)
    falling = [row["density"] for row in whole.history]
    assert falling == sorted(falling, reverse=True) and falling[0] > 0.2


def test_sensitivities_are_what_was_pruned(whole):
    sensitivities, densities = whole.sensitivities(), whole.densities()
    assert list(sensitivities) == list(site_shapes(whole.network.network))
    assert {site: 1 - densities[layer] for site, layer in whole.layers.items()} == sensitivities
    assert min(sensitivities.values()) < max(sensitivities.values()) <= 1


def test_weights_fit_an_ordinary_network_and_compute_the_same(whole):
    ordinary = tiny_network().to(memory_format=torch.channels_last)
    ordinary.network.load_state_dict(whole.weights())
    pixels = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(ordinary.eval()(pixels), whole.network.eval()(pixels))
    whole.network.train()


def test_weights_grow_back(whole):
    """Some weight that a mask left out stands in the last one; the count of each mask fell or stayed."""
    masks = torch.stack(whole.masks)
    assert len(masks) == 8
    counts = masks.sum(1).tolist()
    assert counts == sorted(counts, reverse=True) and counts[3] == counts[-1]
    left_out_before = (~masks[:-1]).any(0)
    assert int((left_out_before & masks[-1]).sum()) > 0
    # After the density has been reached, too: there every weight that comes back displaces another.
    assert not torch.equal(masks[3], masks[-1])


@pytest.mark.parametrize("stop_after", [2, 5])
def test_resumed_training_equals_the_uninterrupted_one(images, whole, stop_after, tmp_path):
    """One stop while the density falls, in the middle of an epoch or at its end, and one after."""
    first = trained(images, tmp_path / "last.ckpt", stop_after=stop_after)
    assert len(first.masks) == stop_after + 1
    second = trained(images, tmp_path / "last.ckpt")
    assert len(second.masks) == 7 - stop_after
    assert all(torch.equal(mask, other) for mask, other in zip(first.masks + second.masks, whole.masks, strict=True))
    assert second.sensitivities() == whole.sensitivities()
    state, expected = second.network.state_dict(), whole.network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())
    # A training that is already over has its masks from the checkpoint alone.
    third = trained(images, tmp_path / "last.ckpt")
    assert not third.masks and third.sensitivities() == whole.sensitivities()


def test_one_segment_is_enough_to_reach_the_density(images, tmp_path):
    stage = trained(images, tmp_path / "last.ckpt", epochs=1, updates_per_epoch=1, pruning_share=0.01)
    assert int(stage.masks[-1].sum()) == round(0.1 * len(stage.masks[-1]))


@pytest.mark.slow
def test_compiles_in_one_graph_and_masks_may_move():
    network = tiny_network()
    stage = SparseTraining(network, epochs=1, batch_size=4, learning_rate=0.1)
    stage.prepare(torch.zeros(1, 3, 8, 8))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    pixels = torch.rand(4, 3, 8, 8)
    for segment in (0, 3):
        stage.prune(segment)
        assert torch.allclose(compiled(pixels), network(pixels), atol=1e-5)
    compiled(pixels).sum().backward()
    dense = network.network.conv1.parametrizations.weight.original
    assert dense.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0}, r"^sensitivity\.density=0: must be a number > 0 and < 1"),
        ({"density": 1.0}, r"^sensitivity\.density=1\.0: "),
        ({"pruning_share": 0}, r"^sensitivity\.pruning_share=0: "),
        ({"pruning_share": 1.5}, r"^sensitivity\.pruning_share=1\.5: "),
        ({"schedule": "steps"}, r"^sensitivity\.schedule=steps "),
        ({"epochs": 0}, r"^sensitivity\.epochs=0: must be an integer >= 1"),
    ],
)
def test_settings_refused(settings, message):
    with pytest.raises(UserError, match=message):
        SparseTraining(tiny_network(), **{"epochs": 1, "batch_size": 4, "learning_rate": 0.1, **settings})


@pytest.mark.parametrize("way", [weight_norm, spectral_norm, parametrizations.weight_norm, prune.identity])
def test_weights_that_are_made_of_others_are_refused_before_anything_is_trained(way):
    network = tiny_network()
    way(network.network.conv1, "weight")
    stage = SparseTraining(network, epochs=1, batch_size=4, learning_rate=0.1)
    with pytest.raises(UserError, match=r"^sensitivity=computed prunes the weight of conv1, which is computed"):
        stage.rehearse(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))

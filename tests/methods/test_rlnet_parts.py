"""Parts of a batch, the attack of a step, and the folded route that it attacks."""

import pytest
import torch
from small_stages import pixel_network
from torch import nn

from relinearize.backbones import BACKBONES
from relinearize.backbones.routes import ROUTES, on_route, with_routes
from relinearize.errors import UserError
from relinearize.methods.rlnet.batch_parts import Part, batch_parts, checked_weights, used_parts
from relinearize.methods.rlnet.folded_route import FoldedRoute
from relinearize.methods.rlnet.inner_attack import InnerAttack
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.mask import Mask
from relinearize.relu.sites import site_shapes

SIZE = 16


def parts(*args, **settings):
    return [(part.name, part.route, part.rows.start, part.rows.stop) for part in batch_parts(*args, **settings)]


def test_official_halves_and_thirds():
    assert parts(128, ROUTES[2]) == [
        ("clean", "clean", 0, 64),
        ("augmix", "clean", 0, 64),
        ("adversarial", "adversarial", 64, 128),
    ]
    assert parts(126, ROUTES[3]) == [
        ("clean", "clean", 0, 42),
        ("augmix", "augmix", 42, 84),
        ("adversarial", "adversarial", 84, 126),
    ]
    assert parts(8, ROUTES[1]) == [("clean", "clean", 0, 8), ("augmix", "clean", 0, 8), ("adversarial", "clean", 0, 8)]


def test_shares_are_those_of_the_parts_in_use_and_full_is_everything():
    assert parts(9, ROUTES[2], ("clean", "adversarial")) == [
        ("clean", "clean", 0, 5),
        ("adversarial", "adversarial", 5, 9),
    ]
    assert batch_parts(11, ROUTES[3])[1] == Part("augmix", "augmix", slice(4, 8))
    for count in ROUTES:
        assert {(start, stop) for *_, start, stop in parts(10, ROUTES[count], split="full")} == {(0, 10)}


def test_weights_of_parts():
    assert used_parts({"clean": 1, "augmix": 0, "adversarial": 2.0}, ROUTES[2], "key") == ("clean", "adversarial")
    assert used_parts({"clean": 0, "augmix": 0, "adversarial": 1.0}, ROUTES[1], "key") == ("adversarial",)
    assert used_parts({"clean": 0, "augmix": 1, "adversarial": 1.0}, ROUTES[2], "key") == ("augmix", "adversarial")


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        ({"clean": 1.0, "noise": 1.0}, 1, "key.noise is unknown; valid: clean, augmix, adversarial"),
        ({"clean": -1.0}, 1, "key.clean=-1.0 is no weight"),
        ({"clean": True}, 1, "key.clean=True is no weight"),
        ({"clean": float("nan")}, 1, "key.clean=nan is no weight"),
        ({"clean": 1.0, "augmix": 1.0}, 2, "trains route adversarial"),
        ({"clean": 1.0, "adversarial": 1.0}, 3, "trains route augmix"),
        ({}, 1, "trains route clean"),
    ],
)
def test_refused_weights_of_parts(weights, count, message):
    with pytest.raises(UserError, match=message):
        used_parts(checked_weights(weights, {}, "key"), ROUTES[count], "key")


# ---- the attack ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 8}, "attack.radius is unknown; valid: epsilon, step_size, steps, loss, random_start"),
        ({"loss": "dlr"}, "attack.loss=dlr is unknown; valid: ce, margin, kl"),
        ({"epsilon": 0}, "attack.epsilon=0 makes no attack; give pixels times 255, above 0"),
        ({"epsilon": 0.031}, "attack.epsilon=0.031: this is 0.031/255; give pixels times 255"),
        ({"step_size": 0.0078}, "attack.step_size=0.0078: this is 0.0078/255; give pixels times 255"),
        ({"epsilon": 256}, "attack.epsilon=256: give pixels times 255, from 0 to 255"),
        ({"step_size": "2"}, "attack.step_size=2: give pixels times 255"),
        ({"steps": 2.5}, "attack.steps=2.5"),
    ],
)
def test_refused_attacks(settings, message):
    with pytest.raises(UserError, match=message):
        InnerAttack.of(settings, "attack")


def test_the_random_start_is_a_function_of_its_key_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))
    images, labels = torch.rand(5, 3, 3, 3), torch.randint(4, (5,))
    attack = InnerAttack.of({"steps": 2}, "attack")
    before = torch.get_rng_state()
    once = attack(network, images, labels, start=(7, 0, 3))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(once, attack(network, images, labels, start=(7, 0, 3)))
    others = [attack(network, images, labels, start=start) for start in ((8, 0, 3), (7, 1, 3), (7, 0, 4))]
    assert not any(torch.equal(once, other) for other in others)
    assert (once - images).abs().max() <= 8 / 255 + 1e-6 and once.min() >= 0 and once.max() <= 1


# ---- the folded route ----------------------------------------------------------------------------------------------


def network_of(name, routes=2):
    network = pixel_network(name, 1 if name == "wrn22_8" else 8, SIZE).double()
    network = with_routes(network, ROUTES[routes]) if routes > 1 else network
    disturb(network)
    return network


def disturb(network):
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.1 if parameter.dim() == 1 else 0, 0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_folded_route_follows_weights_statistics_and_masks(name):
    network = network_of(name).train()
    folded = FoldedRoute(network, "adversarial", masks_change=True)
    images = torch.rand(2, 3, SIZE, SIZE).double()
    shapes = site_shapes(network.network)
    for _ in range(2):
        before = folded.network(images)
        disturb(network)
        Mask({site: torch.rand(shape) < 0.5 for site, shape in shapes.items()}).apply(network.network)
        assert torch.equal(folded.network(images), before)
        folded.follow()
        after = folded.network(images)
        assert not torch.allclose(after, before)
        with on_route(network.eval(), "adversarial"), torch.no_grad():
            torch.testing.assert_close(after, network(images), rtol=1e-9, atol=1e-9)
        network.train()
    assert not folded.network.training and not any(weight.requires_grad for weight in folded.network.parameters())


def test_full_masks_that_stay_are_plain_relus_and_no_batch_norm_of_a_resnet_is_left():
    network = network_of("resnet8", routes=1)
    kinds = (nn.BatchNorm2d, MaskedReLU)
    for masks_change, left in ((False, set()), (True, {MaskedReLU})):
        folded = FoldedRoute(network, "clean", masks_change)
        assert {type(module) for module in folded.network.modules() if isinstance(module, kinds)} == left
        images = torch.rand(2, 3, SIZE, SIZE).double()
        torch.testing.assert_close(folded.network(images), network.eval()(images), rtol=1e-9, atol=1e-9)


def test_biases_and_batch_norms_without_affine():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten()).double()
    network[1].running_var.uniform_(0.5, 2)
    folded = FoldedRoute(network, "clean", masks_change=False)
    nn.init.normal_(network[0].bias)
    images = torch.rand(2, 3, 5, 5).double()
    folded.follow()
    torch.testing.assert_close(folded.network(images), network.eval()(images), rtol=1e-12, atol=1e-12)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        if self.training:
            x = x + torch.randn_like(x)
        return self.relu(self.bn(x)).mean((2, 3))


def test_what_happens_in_training_alone_is_in_no_attacked_network():
    network = with_routes(Noisy().double(), ROUTES[2])
    disturb(network)
    folded = FoldedRoute(network.train(), "clean", masks_change=False)
    images = torch.rand(2, 3, 5, 5).double()
    with on_route(network.eval(), "clean"):
        torch.testing.assert_close(folded.network(images), network(images), rtol=1e-9, atol=1e-9)


class Branching(nn.Module):
    """What torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x):
        x = self.bn(self.conv(x))
        return (self.relu(x) if x.sum() > -1e9 else x).mean((2, 3))


def test_a_network_that_cannot_be_traced_is_followed_unfolded():
    network = with_routes(Branching().double(), ROUTES[2])
    folded = FoldedRoute(network, "adversarial", masks_change=False)
    disturb(network)
    folded.follow()
    images = torch.rand(2, 3, 5, 5).double()
    with on_route(network.eval(), "adversarial"):
        assert torch.equal(folded.network(images), network(images))

"""Batch norms by route: conversion, choice, export and state dicts, on every backbone."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from relinearize.backbones import BACKBONES, PixelInput, build_backbone
from relinearize.backbones.routes import (
    ROUTES,
    RoutedBatchNorm,
    export_route,
    on_route,
    route_state,
    routes_of,
    state_for,
    with_routes,
)
from relinearize.errors import UserError
from relinearize.methods.frozen import frozen_copy
from relinearize.methods.senet.site_outputs import SiteOutputs
from relinearize.relu.sites import linearize, site_shapes

SIZE = 16
NETWORKS = [*sorted(BACKBONES), "torchvision"]


def ordinary(name, kind="linearized"):
    torch.manual_seed(0)
    if name == "torchvision":
        backbone = torchvision.models.resnet18(num_classes=4)
    else:
        backbone = build_backbone(name, classes=4, image_size=SIZE, width=1 if name == "wrn22_8" else 8)
    if kind == "linearized":
        backbone = linearize(backbone, (3, SIZE, SIZE))
    return PixelInput(backbone, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def differing(network):
    """Give each route weights and statistics of its own: random affine, then training-mode passes."""
    torch.manual_seed(1)
    for number, route in enumerate(routes_of(network)):
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, RoutedBatchNorm):
                    nn.init.uniform_(getattr(module, route).weight, 0.5, 1.5)
                    nn.init.normal_(getattr(module, route).bias, 0, 0.2)
        with on_route(network.train(), route), torch.no_grad():
            network(torch.rand(4, 3, SIZE, SIZE) * (number + 1) / 3)
    return network


def signature(network):
    """Modules and their classes (by name: a copied torch.fx graph has a new one), weights and their shapes."""
    classes = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    return classes, [(name, value.shape, value.dtype) for name, value in network.state_dict().items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [(name, count) for name in sorted(BACKBONES) for count in ROUTES] + [("torchvision", 2)]
)
def test_a_route_exports_to_the_ordinary_network_with_the_same_logits(name, count):
    plain = ordinary(name)
    routed = differing(with_routes(plain, ROUTES[count]))
    images = torch.rand(4, 3, SIZE, SIZE)
    answers = {}
    for route in ROUTES[count]:
        exported = export_route(routed, route)
        assert signature(exported) == signature(plain)
        for mode in (False, True):
            once, again = copy.deepcopy(routed).train(mode), exported.train(mode)
            with on_route(once, route):
                assert torch.equal(once(images), again(images))
        answers[route] = export_route(routed, route).eval()(images)
        folded = frozen_copy(export_route(routed.double(), route))
        torch.testing.assert_close(folded(images.double()), answers[route].double(), rtol=1e-4, atol=1e-4)
        routed.float()
        loaded = copy.deepcopy(plain)
        loaded.load_state_dict(route_state(routed.state_dict(), route))
        assert torch.equal(loaded.eval()(images), answers[route])
    values = list(answers.values())
    assert all(not torch.allclose(one, other) for one in values for other in values if one is not other)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_route_starts_as_the_original_which_stays_as_it_was(name):
    plain = ordinary(name).eval()
    before = copy.deepcopy(plain.state_dict())
    routed = with_routes(plain, ROUTES[3])
    images = torch.rand(2, 3, SIZE, SIZE)
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(isinstance(module, RoutedBatchNorm) for module in routed.modules()) == len(norms) > 0
    assert not any(module.training for module in routed.modules())
    for route in ROUTES[3]:
        with on_route(routed, route):
            assert torch.equal(routed(images), plain(images))
    assert routes_of(routed) == ROUTES[3] and routes_of(plain) == ("clean",)
    state = routed.state_dict()
    expected = state_for(plain.state_dict(), state)
    assert expected.keys() == state.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    differing(routed)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def test_names_put_the_route_before_the_name_and_share_all_other_weights():
    routed = with_routes(ordinary("resnet8"), ROUTES[2])
    keys = [key.removeprefix("network.") for key in routed.state_dict()]
    assert {"bn1.clean.weight", "bn1.adversarial.running_var", "layer2.0.shortcut.1.adversarial.bias"} <= set(keys)
    assert keys.count("conv1.weight") == 1 and "bn1.weight" not in keys


def test_states_go_between_networks_with_routes_without_and_with_some():
    """Norm 0 has routes, norm 1 has not: a route that is missing gets what is there for all, one set the clean one."""
    plain = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    routed = with_routes(plain, ROUTES[2])
    some = nn.Sequential(copy.deepcopy(routed[0]), copy.deepcopy(plain[1]))
    values = {"0.clean.bias": 1.0, "0.adversarial.bias": 2.0, "1.bias": 3.0}
    for name, value in values.items():
        nn.init.constant_(some.get_parameter(name), value)
    for network, wanted in (
        (some, values),
        (routed, {"0.clean.bias": 1.0, "0.adversarial.bias": 2.0, "1.clean.bias": 3.0, "1.adversarial.bias": 3.0}),
        (plain, {"0.bias": 1.0, "1.bias": 3.0}),
    ):
        network.load_state_dict(state_for(some.state_dict(), network.state_dict()))
        found = {name: value.item() for name, value in network.named_parameters() if name.endswith("bias")}
        assert found == wanted
    with pytest.raises(RuntimeError, match="Unexpected key"):
        plain.load_state_dict(state_for({**some.state_dict(), "2.bias": torch.ones(1)}, plain.state_dict()))


def test_only_the_active_route_is_updated_and_has_gradients():
    routed = with_routes(ordinary("resnet8"), ROUTES[2]).train()
    before = copy.deepcopy(routed.state_dict())
    with on_route(routed, "adversarial"):
        routed(torch.rand(4, 3, SIZE, SIZE)).sum().backward()
    for key, value in routed.state_dict().items():
        changed = ".adversarial." in key and key.rpartition(".")[2] in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
        assert torch.equal(value, before[key]) != changed, key
    for key, parameter in routed.named_parameters():
        assert (parameter.grad is None) == (".clean." in key), key


def test_a_route_is_given_back_after_an_error_and_hooks_see_every_route():
    routed = differing(with_routes(ordinary("resnet8"), ROUTES[3])).eval()
    with on_route(routed, "augmix"):
        with pytest.raises(KeyError), on_route(routed, "adversarial"):
            raise KeyError
        assert {m.route for m in routed.modules() if isinstance(m, RoutedBatchNorm)} == {"augmix"}
    shapes = site_shapes(routed.network)
    outputs = SiteOutputs(routed, shapes)
    seen = []
    for route in ROUTES[3]:
        with on_route(routed, route), outputs.watching():
            routed(torch.full((2, 3, SIZE, SIZE), 0.3))
        assert {name: tuple(value.shape[1:]) for name, value in outputs.values.items()} == shapes
        seen.append(outputs.values["layer1.0.relu1"].clone())
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_compiled_networks_have_a_graph_per_route():
    torch.compiler.reset()
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    routed = differing(with_routes(small, ROUTES[2])).eval()
    compiled = torch.compile(routed, backend="eager", fullgraph=True)
    images = torch.rand(2, 3, SIZE, SIZE)
    for route in (*ROUTES[2], *ROUTES[2]):
        with on_route(routed, route):
            assert torch.equal(compiled(images), routed(images))
    assert not torch.equal(*(export_route(routed, route)(images) for route in ROUTES[2]))


def test_a_frozen_copy_of_all_routes_still_has_all_routes():
    """Folding would bake one route in; such a network is copied as it is."""
    routed = differing(with_routes(ordinary("resnet8"), ROUTES[2])).eval()
    frozen = frozen_copy(routed)
    images = torch.rand(2, 3, SIZE, SIZE)
    for route in ROUTES[2]:
        with on_route(frozen, route), on_route(routed, route):
            assert torch.equal(frozen(images), routed(images))


def test_one_batch_norm_under_two_names_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.BatchNorm1d(3)
            self.other = self.one

        def forward(self, x):
            return self.other(self.one(x))

    routed = with_routes(Twice(), ROUTES[2])
    assert routed.one is routed.other
    exported = export_route(routed, "adversarial")
    assert exported.one is exported.other and type(exported.one) is nn.BatchNorm1d
    assert type(export_route(with_routes(nn.BatchNorm1d(3), ROUTES[2]), "clean")) is nn.BatchNorm1d


def enter(network, route):
    with on_route(network, route):
        pass


class NamedLikeARoute(nn.Module):
    def __init__(self):
        super().__init__()
        self.clean = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_routes(nn.Linear(2, 2), ROUTES[2]), "no batch norms"),
        (lambda: with_routes(nn.BatchNorm1d(2), ("clean", "clean")), "different names of clean, augmix, adversarial"),
        (lambda: with_routes(nn.BatchNorm1d(2), ("clean", "noise")), "different names of clean, augmix, adversarial"),
        (lambda: with_routes(nn.BatchNorm1d(2), "clean"), "routes clean: must be different names of"),
        (lambda: with_routes(nn.BatchNorm1d(2), ()), "must be different names of"),
        (lambda: with_routes(with_routes(nn.Sequential(nn.BatchNorm1d(2)), ROUTES[2]), ROUTES[2]), "routes already"),
        (lambda: with_routes(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), ROUTES[2]), "batch norm 0"),
        (lambda: with_routes(NamedLikeARoute(), ROUTES[2]), "module clean has the name of a route"),
        (lambda: enter(with_routes(nn.BatchNorm1d(2), ROUTES[2]), "augmix"), "no route augmix; valid: clean, adv"),
        (lambda: enter(nn.BatchNorm1d(2), "adversarial"), "no route adversarial; valid: clean"),
        (lambda: export_route(nn.BatchNorm1d(2), "adversarial"), "no route adversarial; valid: clean"),
        (lambda: route_state(nn.BatchNorm1d(2).state_dict(), "adversarial"), "have no route adversarial; valid: clean"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError, match=message):
        make()

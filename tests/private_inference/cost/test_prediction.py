"""Predictions against what the papers print and what was measured; presets and their names."""

import json
from dataclasses import replace
from importlib import resources
from types import SimpleNamespace

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.cost.backbones import backbone_work
from relinearize.private_inference.cost.presets import find_presets, predict, preset_names, protocols
from relinearize.private_inference.cost.workload import LinearWork, Workload, mask_workload, mean_work
from relinearize.relu.replacement import REPLACEMENTS

# Latencies (thousand ReLUs, seconds) as quoted by ReLUPruner (AAAI-26), tables 1 to 3. Two further rows of SNL there
# (CIFAR-10, 240K and 300K) contradict all others and are no points of SNL's own figure.
SNL = [
    (12.9, 0.291), (12.9, 0.29), (49.9, 1.066), (59.4, 1.265), (60, 1.28), (99.6, 2.12), (198.1, 4.18),
    (298.8, 6.281), (488.8, 10.281),
]  # fmt: skip
SNL_WRN_CIFAR100 = [(120, 2.802), (180, 4.054)]
SENET = [(24.6, 0.61), (49.1, 1.1), (49.6, 1.13), (82, 1.81), (142, 3.08), (150, 3.23), (298, 6.34)]


def preset(name):
    (found,) = find_presets(name, None)
    return found


def seconds(thousands):
    return predict(preset("delphi_compute"), Workload(round(1000 * thousands), 17, 0)).online.seconds


@pytest.mark.parametrize("name", preset_names())
def test_what_a_protocol_has_no_constant_for_is_not_free(name):
    """CKKS' polynomials use up levels; what that costs is not known."""
    for replacement in ("affine", "quadratic", "cubic"):
        workload = replace(mask_workload([(0, 1024)], replacement), linear=LinearWork())
        for found in find_presets(name, None):
            assert predict(found, workload).complete == (found.protocol.name != "ckks")
    identity = replace(mask_workload([(8, 1024)]), linear=LinearWork())
    assert all(predict(found, identity).complete for found in find_presets(name, None))


@pytest.mark.parametrize(("thousands", "quoted"), SNL)
def test_snls_latencies(thousands, quoted):
    assert seconds(thousands) == pytest.approx(quoted, rel=0.005)


@pytest.mark.parametrize(("thousands", "quoted"), SNL_WRN_CIFAR100)
def test_snls_two_for_the_wide_network_lie_a_constant_above(thousands, quoted):
    assert quoted - seconds(thousands) == pytest.approx(0.26, abs=0.01)


@pytest.mark.parametrize(("thousands", "quoted"), SENET)
def test_senets_latencies(thousands, quoted):
    """Theirs lie above the line by up to 0.09 s, whatever the number of ReLUs."""
    assert 0.03 < quoted - seconds(thousands) < 0.09
    assert seconds(thousands) == pytest.approx(quoted, rel=0.13 if thousands < 30 else 0.07)


RESNET20_CONVOLUTIONS = [(3, 32, 16, 1, 3)]  # channels in, pixels a side, channels out, stride, kernel
for width, side, stride in ((16, 32, 1), (32, 32, 2), (64, 16, 2)):
    RESNET20_CONVOLUTIONS.append((width // stride, side, width, stride, 3))
    RESNET20_CONVOLUTIONS += [(width, side // stride, width, 1, 3)] * 5
    RESNET20_CONVOLUTIONS += [(width // stride, side, width, stride, 1)] if stride == 2 else []
RESNET20_LAYERS = [
    LinearWork.of_convolution(inside, inside * side**2, kernel**2, outside, (side // stride) ** 2)
    for inside, side, outside, stride, kernel in RESNET20_CONVOLUTIONS
] + [mean_work(64, 8 * 8), LinearWork.of_products(64, 1, 64, 10)]
RESNET20 = LinearWork.total(RESNET20_LAYERS)
RESNET18 = backbone_work("resnet18", 64, SimpleNamespace(classes=10, image_size=32, channels=3))
# SPU 0.9.5, two processes of several threads, months before presets.json was fitted: network, ReLUs, sites that keep
# any, MB, and by how many seconds the WAN was slower than loopback.
CHEETAH = [
    (RESNET20, 188_416, 19, 37.5, 20.4 - 9.3),
    (RESNET20, 94_208, 19, 27.7, 18.9 - 8.3),
    (RESNET20, 18_842, 19, 20.3, 17.8 - 8.0),
    (RESNET20, 18_842, 5, 20.3, 11.4 - 7.4),
    (RESNET20, 0, 0, 18.4, 11.2 - 7.3),
    (RESNET18, 557_056, 17, 111.1, None),
    (RESNET18, 139_264, 17, 69.4, None),
    (RESNET18, 27_853, 17, 57.9, None),
]
SEMI2K = [(RESNET20, 188_416, 19, 57.5), (RESNET20, 0, 0, 30.4)]
# CrypTen 0.4.1: ReLUs, sites that keep any, MB, messages.
TFP = [
    (188_416, 19, 95.2, 194),
    (94_208, 19, 51.4, 194),
    (47_104, 19, 29.6, 194),
    (18_842, 19, 16.5, 194),
    (0, 0, 7.7, 23),
]


@pytest.mark.parametrize(("linear", "relus", "live", "megabytes", "slower"), CHEETAH)
def test_cheetah_as_measured(linear, relus, live, megabytes, slower):
    """Seconds on loopback are of another number of threads; what a network adds to them is not."""
    found = predict(preset("cheetah_wan"), Workload(relus, live, 0, linear)).online
    assert found.bytes == pytest.approx(megabytes * 1e6, rel=0.03)
    assert slower is None or found.seconds - found.loopback_seconds == pytest.approx(slower, rel=0.15, abs=1.5)


@pytest.mark.parametrize(("linear", "relus", "live", "megabytes"), SEMI2K)
def test_semi2k_as_measured(linear, relus, live, megabytes):
    found = predict(preset("semi2k_wan"), Workload(relus, live, 0, linear)).online
    assert found.bytes == pytest.approx(megabytes * 1e6, rel=0.01)
    assert found.messages == 8 * live + 2 * 22 + 2, "two for each layer; the mean of the pool and the logits"


def test_batch_norms_of_their_own_are_products_with_diagonal_matrices():
    """WRN-22-8 with all ReLUs, measured in SEMI2K: docs/private_inference.md."""
    linear = backbone_work("wrn22_8", None, SimpleNamespace(classes=10, image_size=32, channels=3))
    found = predict(preset("semi2k_wan"), Workload(1_392_640, 19, 0, linear)).online
    assert found.bytes == pytest.approx(696.99e6, rel=1e-4) and found.messages == 218


@pytest.mark.parametrize(("relus", "live", "megabytes", "messages"), TFP)
def test_crypten_as_measured(relus, live, megabytes, messages):
    found = predict(preset("tfp_wan"), Workload(relus, live, 0, RESNET20)).online
    assert found.bytes == pytest.approx(megabytes * 1e6, rel=0.02) and found.messages == messages


def test_homomorphic_sites_cost_alike_whatever_they_keep():
    """CKKS: culling a layer pays, thinning it does not. The ResNet-20 of the logs that the constants are from takes
    310 s with 18 sites, the loading of keys and two further bootstrappings in it."""
    full, thinned, culled = (
        predict(preset("ckks_wan"), Workload(relus, live, 0, RESNET20)).online
        for relus, live in ((188_416, 18), (1_884, 18), (1_884, 9))
    )
    assert full == thinned and culled.seconds == pytest.approx(full.seconds - 9 * 9.8)
    assert full.loopback_seconds == pytest.approx(310, rel=0.15) and full.messages == 2


# `relinearize infer` on trained ResNet-8s of 8 x 8 pixels, docs/private_inference.md: ReLUs, MB of Cheetah and SEMI2K.
@pytest.mark.parametrize(("relus", "cheetah", "semi2k"), [(2304, 5.21, 2.51), (461, 5.03, 2.25)])
def test_small_networks_as_measured(relus, cheetah, semi2k):
    """Their ciphertexts are hardly filled, and their last maps smaller than the kernels."""
    work = backbone_work("resnet8", 16, SimpleNamespace(classes=10, image_size=8, channels=1))
    for name, megabytes in (("cheetah_wan", cheetah), ("semi2k_wan", semi2k)):
        assert predict(preset(name), Workload(relus, 7, 0, work)).online.bytes == pytest.approx(
            megabytes * 1e6, rel=0.02
        )


def test_delphi_online_offline_and_storage():
    """557,056 ReLUs of ResNet-18 at 32 pixels, as in the logs of the artifact."""
    found = predict(preset("delphi_wan"), Workload(557_056, 17, 0, RESNET18))
    assert found.online.loopback_seconds == pytest.approx(10.17 + 1.99 + 0.43, rel=0.01)
    assert found.online.bytes == pytest.approx(660e6, rel=0.01)
    assert found.offline.loopback_seconds == pytest.approx(17.0 + 4.2 + 286, rel=0.05)
    assert found.offline.bytes == pytest.approx(9.51e9 + 1.12e9, rel=0.01)
    assert (found.client_storage, found.server_storage) == pytest.approx((10.2e9, 2.0e9), rel=0.01)
    assert found.online.messages == 2 * 17 + 2 and found.complete
    slow = found.online.loopback_seconds + 36 * 0.02 + 557_056 * 1184 * 8 / 100e6
    assert found.online.seconds == pytest.approx(slow)


def test_dead_sites_cost_nothing_and_live_ones_rounds():
    pooled = LinearWork(means=1)
    few, many = (
        predict(preset("semi2k_wan"), replace(mask_workload(sites), linear=pooled)).online
        for sites in ([(500, 500), (0, 500), (0, 500)], [(200, 500), (200, 500), (100, 500)])
    )
    assert few.bytes == many.bytes == 500 * 144
    assert (few.messages, many.messages) == (8 + 2, 24 + 2) and few.seconds < many.seconds
    none = predict(preset("cheetah_lan"), mask_workload([(0, 500)])).online
    assert (none.bytes, none.messages, none.seconds) == (0, 0, 0)


def test_replacements_cost_as_they_compute():
    """A quadratic is one product and two roundings, an affine a rounding, the others nothing; rounds at every site."""
    sites = [(500, 500), (100, 500), (0, 500)]
    plain, zero, affine, quadratic, cubic = (
        [
            predict(preset(name), mask_workload(sites, kind)).online
            for name in ("semi2k_wan", "cheetah_wan", "delphi_wan")
        ]
        for kind in REPLACEMENTS
    )
    assert plain == zero
    assert affine[0].bytes - plain[0].bytes == 8 * 900 and affine[0].messages - plain[0].messages == 2
    assert quadratic[0].bytes - plain[0].bytes == 48 * 900 and quadratic[0].messages - plain[0].messages == 3 * 2
    # Cheetah's two ciphertexts at each site, however few positions there are
    assert quadratic[1].bytes - plain[1].bytes == pytest.approx(2 * 2 * 440_000 + 5.64 * 900)
    assert affine[2] == plain[2] and quadratic[2].bytes - plain[2].bytes == 16 * 900
    for less, more, most in zip(plain[:2], affine[:2], quadratic[:2], strict=True):
        assert less.seconds < more.seconds < most.seconds
    for none, one, two in zip(plain, quadratic, cubic, strict=True):
        assert two.bytes - none.bytes == pytest.approx(2 * (one.bytes - none.bytes)), "a cubic is two products"
        assert two.messages - none.messages == pytest.approx(2 * (one.messages - none.messages))


def test_without_the_linear_part_it_is_said():
    masked = mask_workload([(5, 10)])
    assert predict(preset("delphi_compute"), masked).complete
    assert not any(predict(preset(name), masked).complete for name in ("delphi_lan", "cheetah_lan", "semi2k_wan"))


def test_max_pools_are_comparisons():
    plain, pooled = LinearWork(layers=1), LinearWork(layers=1, pool_comparisons=300, pool_steps=2)
    for name in ("cheetah_wan", "semi2k_wan", "delphi_wan"):
        without, with_pools = (predict(preset(name), Workload(100, 1, 0, work)).online for work in (plain, pooled))
        per_relu = without.bytes / 100
        assert with_pools.bytes - without.bytes == pytest.approx(300 * per_relu)
        assert with_pools.messages > without.messages and with_pools.seconds > without.seconds


def test_presets_and_networks():
    assert [one.name for one in find_presets(None, None)] == [
        "delphi_compute", "delphi_lan", "delphi_wan", "cheetah_lan", "cheetah_wan", "semi2k_lan", "semi2k_wan",
        "tfp_lan", "tfp_wan", "ckks_lan", "ckks_wan",
    ]  # fmt: skip
    assert [one.name for one in find_presets("cheetah", None)] == ["cheetah_lan", "cheetah_wan"]
    assert [one.name for one in find_presets("semi2k", "loopback")] == ["semi2k_loopback"]
    own = find_presets("cheetah", "{rtt_ms: 80, mbps: 20}")
    assert [(one.protocol.name, one.network.rtt_ms, one.network.mbps) for one in own] == [("cheetah", 80, 20)]
    assert preset("delphi_compute").network is None
    assert set(preset_names()) >= {"delphi_compute", "delphi_lan", "delphi_wan", "cheetah", "semi2k"}
    for name, network, message in (
        ("spdz", None, "preset=spdz is unknown; valid: delphi_compute, delphi"),
        ("delphi_lan", "wan", "is on lan, not on network=wan; give preset=delphi"),
        ("delphi_compute", "wan", "computation alone and knows no network=wan"),
        (None, "wifi", "network=wifi: must be loopback, lan, wan"),
        (None, 5, "network=5: must be loopback, lan, wan"),
    ):
        with pytest.raises(UserError, match=message):
            find_presets(name, network)


def test_every_constant_has_a_value_and_a_source():
    """And is per a count that there is."""
    counts = set(Workload(0, 0, 0, LinearWork()).features())
    file = json.loads(resources.files("relinearize.private_inference.cost").joinpath("presets.json").read_text())
    number = 0
    for protocol in file["protocols"].values():
        for phase in ("online", "offline", "storage"):
            for quantity, terms in protocol.get(phase, {}).items():
                terms = {"busier_direction": terms} if quantity == "busier_direction" else terms
                for count, constant in terms.items():
                    assert count in counts or count == "busier_direction"
                    assert set(constant) == {"value", "source"} and constant["value"] >= 0
                    assert len(constant["source"]) > 5
                    number += 1
    assert number > 30 and list(file["protocols"]) == list(protocols())

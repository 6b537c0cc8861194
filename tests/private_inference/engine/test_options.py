"""What `relinearize infer` can be asked for, and how mistakes are told. Runs in the engine's environment, too."""

import errno
import os
import sys
from pathlib import Path

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import NETWORKS, Network, read_network
from relinearize.private_inference.engine import __main__ as engine_command
from relinearize.private_inference.engine import options as engine_options
from relinearize.private_inference.engine.__main__ import main, run
from relinearize.private_inference.engine.options import InferOptions


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_defaults():
    options = InferOptions("runs/a/bundle")
    assert (options.chosen_protocol.name, options.link.name, options.batch) == ("cheetah", "loopback", 1)
    assert options.folder == Path("runs/a/bundle-infer/cheetah-loopback")
    assert not options.kn2row and not options.local_truncation


def test_the_bundle_in_which_the_command_is_typed_has_its_folder_beside_it(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    assert InferOptions(".").folder == tmp_path / "bundle-infer" / "cheetah-loopback"


def test_a_protocol_has_one_engine_and_an_engine_a_default():
    for settings in ({"engine": "crypten"}, {"protocol": "tfp"}, {"engine": "crypten", "protocol": "tfp"}):
        options = InferOptions("b", **settings)
        assert (options.chosen_protocol.engine, options.chosen_protocol.name) == ("crypten", "tfp")
        assert options.folder == Path("b-infer/tfp-loopback")
    assert InferOptions("b", engine="spu").chosen_protocol.name == "cheetah"


def test_what_changes_the_numbers_has_a_folder_of_its_own(monkeypatch):
    options = InferOptions("b", protocol="semi2k", network="wan", kn2row=True, local_truncation=True, batch=8)
    assert options.folder == Path("b-infer/semi2k-wan-batch8-kn2row-local_truncation")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert InferOptions("b", batch=8).folder == Path("b-infer/cheetah-loopback-batch8-threads4")
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    own = InferOptions("b", network="{rtt_ms:20,mbps:50}")
    assert own.folder == Path("b-infer/cheetah-20ms-50mbps")


@pytest.mark.parametrize(
    ("settings", "there", "images"),
    [({}, 100, 5), ({}, 3, 3), ({"batch": 8}, 100, 8), ({"batch": 8}, 6, 6), ({"n_images": 10, "batch": 4}, 100, 10)],
)
def test_all_images_that_are_asked_for_and_by_default_five_or_a_whole_batch(settings, there, images):
    assert InferOptions("b", **settings).images(there) == images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bundle": None}, "infer needs bundle="),
        ({"n_images": 0}, "n_images=0: must be an integer >= 1"),
        ({"batch": 0}, "batch=0: must be an integer >= 1"),
        ({"timeout": 5}, "timeout=5: must be an integer >= 10"),
        ({"local_truncation": 1}, "local_truncation=1: must be true or false"),
        ({"layers": "all"}, "layers=all: must be true or false"),
        ({"engine": "mpyc"}, "engine=mpyc: valid: spu, crypten"),
        ({"protocol": "aby3"}, "protocol=aby3: valid: cheetah, semi2k, tfp"),
        ({"engine": "spu", "protocol": "tfp"}, "protocol=tfp: valid with engine=spu: cheetah, semi2k"),
        ({"engine": "crypten", "kn2row": True}, "kn2row=true goes with protocol=semi2k only; tfp has"),
        ({"kn2row": True}, "kn2row=true goes with protocol=semi2k only"),
        ({"network": "moon"}, "network=moon: must be loopback, lan, wan or '{rtt_ms:40,mbps:100}'$"),
        ({"network": "{rtt_ms:20,rtt_ms:30}"}, "network="),
        ({"network": "{mbps:0}"}, "mbps 0.1 to"),
        ({"network": "{rtt_ms:nan}"}, "network="),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        InferOptions(**{"bundle": "b"} | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{rtt_ms:20,mbps:50}", "{ mbps = 50, rtt_ms = 20 }", '{"rtt_ms": 20, "mbps": 5e1}'])
def test_a_network_of_ones_own(text):
    assert read_network(text) == Network("20ms-50mbps", 20, 50)
    assert read_network("{rtt_ms: 20}") == Network("20ms", 20, None)


def test_the_model():
    wan = NETWORKS["wan"]
    assert wan.predicted_seconds(1.0, messages=100, direction_bytes=12_500_000) == pytest.approx(1 + 100 * 0.02 + 1)
    assert NETWORKS["loopback"].predicted_seconds(1.5, 100, 10**9) == 1.5
    assert wan.emulated and not NETWORKS["loopback"].emulated


def test_options_come_back_from_json():
    options = InferOptions("a b/5", n_images=2, kn2row=True, protocol="semi2k", network="{mbps:5}", output="c")
    assert InferOptions.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"give the keys of `relinearize infer` as one word of JSON: '\{\"bundle\": \"FOLDER\"\}'"),
        (["a", "b"], "give the keys of"),
        (["{bundle: b}"], r"\{bundle: b\} is no JSON: Expecting property name"),
        (["[1]"], r"\[1\] must hold keys of `relinearize infer`"),
        (
            ['{"bundle": "b", "colour": 1}'],
            f"colour is unknown; valid: bundle, .* {sys.executable} has another version",
        ),
        (['{"bundle": 5}'], "bundle=5 is no path"),
        (['{"bundle": "b", "engine": ["spu"]}'], "engine=.*: valid: spu, crypten"),
        (["{}"], "infer needs bundle="),
    ],
)
def test_mistakes_in_the_engines_environment_are_one_line(words, message):
    with pytest.raises(SystemExit, match=f"^relinearize: error: {message}") as caught:
        run(words)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line(monkeypatch):
    def full(options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine_command, "main", full)
    with pytest.raises(SystemExit, match=r"^relinearize: error: No space left on device \(output="):
        run(['{"bundle": "b"}'])


def test_an_environment_without_the_engine_says_so_and_asks_no_further(monkeypatch):
    monkeypatch.setattr(engine_options, "installed", lambda name: False)
    monkeypatch.setattr(os, "execv", lambda *call: pytest.fail("handed over again"))
    with pytest.raises(UserError, match=f"{sys.executable} cannot import spu; `make pi` makes it"):
        main(InferOptions("b", python=sys.executable))

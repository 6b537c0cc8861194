"""What a user may ask, and how he is told what he may not."""

import os
import sys
from pathlib import Path

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import NETWORKS, Network, read_network
from relinearize.private_inference.engine import command, engines
from relinearize.private_inference.engine.options import Request, resolve


def test_defaults():
    options = resolve(Request("runs/a/bundle"))
    assert (options.protocol.name, options.network.name, options.n_images) == ("cheetah", "loopback", 5)
    assert options.output == Path("runs/a/bundle-infer/cheetah-loopback")
    assert not options.kn2row and not options.local_truncation


def test_a_protocol_has_one_engine_and_an_engine_a_default():
    for settings in ({"engine": "crypten"}, {"protocol": "tfp"}, {"engine": "crypten", "protocol": "tfp"}):
        options = resolve(Request("b", **settings))
        assert (options.engine, options.protocol.name) == ("crypten", "tfp")
        assert options.output == Path("b-infer/tfp-loopback")
    assert resolve(Request("b", engine="spu")).protocol.name == "cheetah"


def test_what_changes_the_numbers_has_a_folder_of_its_own():
    options = resolve(Request("b", protocol="semi2k", network="wan", kn2row=True, local_truncation=True))
    assert options.output == Path("b-infer/semi2k-wan-kn2row-local_truncation")
    own = resolve(Request("b", network="{rtt_ms:20,mbps:50}"))
    assert own.output == Path("b-infer/cheetah-20ms-50mbps")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "mpyc"}, "engine=mpyc: valid: spu, crypten"),
        ({"protocol": "aby3"}, "protocol=aby3: valid: cheetah, semi2k, tfp"),
        ({"engine": "spu", "protocol": "tfp"}, "protocol=tfp: valid with engine=spu: cheetah, semi2k"),
        ({"engine": "crypten", "kn2row": True}, "kn2row=true goes with protocol=semi2k only; tfp has"),
        ({"kn2row": True}, "kn2row=true goes with protocol=semi2k only"),
        ({"network": "moon"}, "network=moon: give loopback, lan, wan or"),
        ({"network": "{rtt_ms:20,rtt_ms:30}"}, "network="),
        ({"network": "{mbps:0}"}, "mbps 0.1 to"),
        ({"network": "{rtt_ms:nan}"}, "network="),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve(Request("b", **settings))
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


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    """Of any kind, in this environment."""
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_the_engine_one_line_says_how_to_make_it(no_engine, monkeypatch):
    monkeypatch.setattr(engines, "__file__", str(no_engine / "a" / "b" / "engines.py"))
    with pytest.raises(UserError, match=r"SecretFlow SPU .*\.venv-pi/bin/python; `make pi` makes it"):
        command.infer_command(Request("b"))
    with pytest.raises(UserError, match="none at /no/python"):
        command.infer_command(Request("b", python="/no/python"))
    with pytest.raises(UserError, match="needs CrypTen, and this environment has none; `make crypten` puts it into"):
        command.infer_command(Request("b", engine="crypten"))


def test_another_python_takes_over_with_the_same_request(no_engine, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda *call: called.append(call) or sys.exit(0))
    (no_engine / ".venv-pi" / "bin").mkdir(parents=True)
    python = no_engine / ".venv-pi" / "bin" / "python"
    python.symlink_to(sys.executable)
    with pytest.raises(SystemExit):
        command.infer_command(Request("b", n_images=2))
    ((program, (*start, request)),) = called
    assert program == str(python) and start == [program, "-P", "-m", "relinearize.private_inference.engine"]
    assert Request.from_json(request) == Request("b", n_images=2)


def test_another_python_without_the_engine_says_so_and_asks_no_further(no_engine, monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *call: pytest.fail("handed over again"))
    with pytest.raises(UserError, match=f"{sys.executable} cannot import spu; `make pi` makes it"):
        command.infer_in_this_environment(Request("b", python=sys.executable))


def test_mistakes_are_told_before_another_python_is_asked(no_engine):
    with pytest.raises(UserError, match="protocol=x"):
        command.infer_command(Request("b", protocol="x"))

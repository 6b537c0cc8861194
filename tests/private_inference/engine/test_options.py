"""What a user may ask, and how he is told what he may not."""

import os
import sys
from pathlib import Path

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.cost.network import NETWORKS, Network, read_network
from relinearize.private_inference.engine import command, engines
from relinearize.private_inference.engine.options import HELP, KEYS, read_options


def test_defaults():
    options = read_options(["bundle=runs/a/bundle"])
    assert (options.protocol.name, options.network.name, options.n_images) == ("cheetah", "loopback", 5)
    assert options.output == Path("runs/a/bundle-infer/cheetah-loopback")
    assert not options.kn2row and not options.local_truncation


def test_a_protocol_has_one_engine_and_an_engine_a_default():
    for arguments in (["engine=crypten"], ["protocol=tfp"], ["engine=crypten", "protocol=tfp"]):
        options = read_options(["bundle=b", *arguments])
        assert (options.engine, options.protocol.name) == ("crypten", "tfp")
        assert options.output == Path("b-infer/tfp-loopback")
    assert read_options(["bundle=b", "engine=spu"]).protocol.name == "cheetah"


def test_what_changes_the_numbers_has_a_folder_of_its_own():
    options = read_options(["bundle=b", "protocol=semi2k", "network=wan", "kn2row=true", "local_truncation=true"])
    assert options.output == Path("b-infer/semi2k-wan-kn2row-local_truncation")
    own = read_options(["bundle=b", "network={rtt_ms:20,mbps:50}"])
    assert own.output == Path("b-infer/cheetah-20ms-50mbps")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "infer needs bundle="),
        (["bundle=b", "engine=mpyc"], "engine=mpyc: valid: spu, crypten"),
        (["bundle=b", "protocol=aby3"], "protocol=aby3: valid: cheetah, semi2k, tfp"),
        (["bundle=b", "engine=spu", "protocol=tfp"], "protocol=tfp: valid with engine=spu: cheetah, semi2k"),
        (["bundle=b", "engine=crypten", "kn2row=true"], "kn2row=true goes with protocol=semi2k only; tfp has"),
        (["bundle=b", "n_images=0"], "n_images=0"),
        (["bundle=b", "kn2row=true"], "kn2row=true goes with protocol=semi2k only"),
        (["bundle=b", "local_truncation=1"], "local_truncation=1: give true or false"),
        (["bundle=b", "network=moon"], "network=moon: give loopback, lan, wan or"),
        (["bundle=b", "network={rtt_ms:20,rtt_ms:30}"], "network="),
        (["bundle=b", "network={mbps:0}"], "mbps 0.1 to"),
        (["bundle=b", "network={rtt_ms:nan}"], "network="),
        (["bundle=b", "images=3"], "infer does not know 'images=3'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        read_options(arguments)
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


def test_help_names_every_key():
    assert all(f"{key}=" in HELP for key in KEYS)


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    """Of any kind, in this environment."""
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_the_engine_one_line_says_how_to_make_it(no_engine, monkeypatch):
    monkeypatch.setattr(engines, "__file__", str(no_engine / "a" / "b" / "engines.py"))
    with pytest.raises(UserError, match=r"SecretFlow SPU .*\.venv-pi/bin/python; `make pi` makes it"):
        command.infer_command(["bundle=b"])
    with pytest.raises(UserError, match="none at /no/python"):
        command.infer_command(["bundle=b", "python=/no/python"])
    with pytest.raises(UserError, match="needs CrypTen, and this environment has none; `make crypten` puts it into"):
        command.infer_command(["bundle=b", "engine=crypten"])


def test_another_python_takes_over_with_the_same_arguments(no_engine, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda *call: called.append(call) or sys.exit(0))
    (no_engine / ".venv-pi" / "bin").mkdir(parents=True)
    python = no_engine / ".venv-pi" / "bin" / "python"
    python.symlink_to(sys.executable)
    with pytest.raises(SystemExit):
        command.infer_command(["bundle=b", "n_images=2"])
    assert called == [
        (str(python), [str(python), "-P", "-m", "relinearize.private_inference.engine", "bundle=b", "n_images=2"])
    ]


def test_another_python_without_the_engine_says_so_and_asks_no_further(no_engine, monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *call: pytest.fail("handed over again"))
    with pytest.raises(UserError, match=f"{sys.executable} cannot import spu; `make pi` makes it"):
        command.infer_in_this_environment(["bundle=b", f"python={sys.executable}"])


def test_mistakes_are_told_before_another_python_is_asked(no_engine):
    with pytest.raises(UserError, match="protocol=x"):
        command.infer_command(["bundle=b", "protocol=x"])

"""`relinearize infer` in the main environment: the config it composes, and which Python it runs the engine with."""

import os
import sys

import pytest

pytest.importorskip("hydra", reason="the engine's environment has no Hydra")

from relinearize.commands.infer import main
from relinearize.errors import UserError
from relinearize.private_inference.engine import options as engine_options
from relinearize.private_inference.engine.options import InferOptions


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    """Of any kind, in this environment."""
    monkeypatch.setattr(engine_options, "installed", lambda name: False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_the_engine_one_line_says_how_to_make_it(no_engine, monkeypatch):
    monkeypatch.setattr(engine_options, "__file__", str(no_engine / "a" / "b" / "protocols.py"))
    with pytest.raises(UserError, match=r"SecretFlow SPU .*\.venv-pi/bin/python; `make pi` makes it"):
        main(["bundle=b"])
    with pytest.raises(UserError, match="none at /no/python"):
        main(["bundle=b", "python=/no/python"])
    with pytest.raises(UserError, match="needs CrypTen, and this environment has none; `make crypten` puts it into"):
        main(["bundle=b", "engine=crypten"])


def test_another_python_takes_over_with_the_composed_options(no_engine, monkeypatch):
    called = []
    monkeypatch.setattr(os, "execv", lambda *call: called.append(call) or sys.exit(0))
    (no_engine / ".venv-pi" / "bin").mkdir(parents=True)
    python = no_engine / ".venv-pi" / "bin" / "python"
    python.symlink_to(sys.executable)
    with pytest.raises(SystemExit):
        main(["bundle=b", "n_images=2", "network={rtt_ms:20,mbps:50}"])
    ((path, words),) = called
    assert (path, words[:4]) == (str(python), [str(python), "-P", "-m", "relinearize.private_inference.engine"])
    (text,) = words[4:]
    assert InferOptions.from_json(text) == InferOptions("b", n_images=2, network="{rtt_ms:20,mbps:50}")


def test_what_cannot_be_started_is_named(no_engine):
    text = no_engine / "text"
    text.write_text("no program\n")
    text.chmod(0o755)
    for place, reason in ((no_engine, "Permission denied"), (text, "Exec format error")):
        with pytest.raises(UserError, match=rf"^python={place} cannot be started \({reason}\); python=FILE names"):
            main(["bundle=b", f"python={place}"])


@pytest.mark.parametrize(
    ("word", "message"), [("protocol=x", "protocol=x: valid"), ("n_images=a", "n_images=a: must be")]
)
def test_mistakes_are_told_before_another_python_is_asked(no_engine, word, message):
    with pytest.raises(UserError, match=message):
        main(["bundle=b", word])

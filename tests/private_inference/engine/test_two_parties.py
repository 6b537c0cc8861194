"""Two processes that are watched: what one says, how its death is told, and that none is left behind.

The parties here are small scripts, so no engine is needed.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from numpy_bundles import residual_network, written
from processes import LIMIT, alive, gone

from relinearize.errors import UserError
from relinearize.private_inference.engine import infer as engine_infer
from relinearize.private_inference.engine.options import InferOptions
from relinearize.private_inference.engine.two_parties import TwoParties, stopped_by_signals

ECHO = """
import json, os, sys
folder, rank = sys.argv[1], int(sys.argv[2])
print("to the log", file=sys.stderr)
print(json.dumps({"event": "ready", "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    command = json.loads(line)["do"]
    if command == f"exit {rank}":
        sys.exit(3)
    if command == f"fail {rank}":
        print(json.dumps({"event": "failed", "reason": "the reason"}), flush=True)
    if command != f"sleep {rank}":
        print(json.dumps({"event": "said", "rank": rank, "command": command}), flush=True)
"""


@pytest.fixture
def parties(tmp_path):
    with TwoParties(tmp_path, LIMIT, (sys.executable, "-c", ECHO)) as started:
        pids = [event["pid"] for event in started.both()]
        yield started
    assert gone(pids), "left behind"


def test_both_hear_and_answer(parties, tmp_path):
    for command in ("a", "b"):
        parties.tell(do=command)
        assert [(said["rank"], said["command"]) for said in parties.both()] == [(0, command), (1, command)]
    assert (tmp_path / "server.log").read_text() == (tmp_path / "client.log").read_text() == "to the log\n"


@pytest.mark.parametrize(("rank", "name"), [(0, "server"), (1, "client")])
def test_one_that_is_killed_is_named_with_its_log(parties, tmp_path, rank, name):
    parties.tell(do=f"sleep {rank}")
    parties.processes[rank].kill()
    with pytest.raises(UserError, match=f"the {name} ended: killed by SIGKILL; see {tmp_path}/{name}.log"):
        parties.both()


@pytest.mark.parametrize(
    ("command", "message"),
    [("exit 1", "the client ended: exit status 3"), ("fail 1", "^the client cannot take part: the reason$")],
)
def test_one_that_exits_is_named_and_one_that_says_why_quoted(parties, command, message):
    parties.tell(do=command)
    with pytest.raises(UserError, match=message):
        parties.both()


def test_a_command_to_the_dead_is_no_error_of_its_own(parties):
    parties.processes[0].kill()
    parties.processes[0].wait()
    parties.tell(do="a")
    with pytest.raises(UserError, match="the server ended"):
        parties.both()


def test_one_that_is_silent_is_named(tmp_path):
    with TwoParties(tmp_path, LIMIT, (sys.executable, "-c", ECHO)) as parties:
        parties.both()
        parties.timeout = 0.5
        parties.tell(do="sleep 0")
        with pytest.raises(UserError, match=r"the server was silent for 0.5 s \(timeout=\); see .*server.log"):
            parties.both()


def test_an_error_leaves_none_behind(tmp_path):
    with pytest.raises(RuntimeError), TwoParties(tmp_path, LIMIT, (sys.executable, "-c", ECHO)) as parties:
        pids = [event["pid"] for event in parties.both()]
        raise RuntimeError
    assert gone(pids)


STARTER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests themselves run in the background
from relinearize.private_inference.engine.two_parties import TwoParties, stopped_by_signals
folder, party, seconds = Path(sys.argv[1]), (sys.executable, "-c", sys.argv[2]), int(sys.argv[3])
try:
    with stopped_by_signals(), TwoParties(folder, seconds, party) as parties:
        print(*[event["pid"] for event in parties.both()], flush=True)
        time.sleep(seconds)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_a_stopped_starter_takes_both_with_it(tmp_path, number, status):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path), ECHO, str(LIMIT)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    with starter.stdout:
        pids = [int(pid) for pid in starter.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    starter.send_signal(number)
    assert starter.wait(LIMIT) == status
    assert gone(pids)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_engines_command_in_order(tmp_path, monkeypatch, capsys, number, status):
    options = InferOptions(written(residual_network([0] * 5), tmp_path / "bundle"), protocol="tfp", n_images=1)
    monkeypatch.setattr(type(options.chosen_engine), "here", True)
    monkeypatch.setattr(engine_infer, "measured", lambda *arguments: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", ["engine", options.to_json()])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_module("relinearize.private_inference.engine", run_name="__main__")
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.value.code == status
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "relinearize: interrupted; both parties are stopped" or number != signal.SIGINT


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("1", "1")),
        ({"OMP_NUM_THREADS": "4"}, ("4", "4")),
        ({"OMP_THREAD_LIMIT": "8"}, ("1", "8")),
    ],
)
def test_no_party_takes_more_threads_than_it_is_given(tmp_path, monkeypatch, given, expected):
    """SPU's products start two whatever OMP_NUM_THREADS says, so the limit is that, too, unless the user sets it."""
    seen = []

    def measured(*arguments):
        seen.append((os.environ["OMP_NUM_THREADS"], os.environ["OMP_THREAD_LIMIT"]))
        raise UserError("seen")

    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(engine_infer, "measured", measured)
    options = InferOptions(written(residual_network([0] * 5), tmp_path / "bundle"), protocol="tfp", n_images=1)
    with pytest.raises(UserError, match="seen"):
        engine_infer.infer(options)
    assert seen == [expected]


def test_signals_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit), stopped_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    thread = threading.Thread(target=lambda: stopped_by_signals().__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before

"""What the tests of both engines do: a bundle through `infer`, and its logits against those of plaintext."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy_bundles import written

from relinearize.errors import UserError
from relinearize.private_inference.engine import infer as engine_infer
from relinearize.private_inference.engine.job import Job
from relinearize.private_inference.engine.options import InferOptions
from relinearize.private_inference.engine.sockets import dialled
from relinearize.private_inference.engine.two_parties import TwoParties

NOBODY = 65534
ENVIRONMENT = {"COLUMNS": "120", "OMP_NUM_THREADS": "1"}  # of the command


def inferred(bundle, folder, **settings):
    path = written(bundle, folder / "bundle")
    return engine_infer.infer(InferOptions(path, output=folder / "out", timeout=300, **settings))


def by_command(bundle, folder, **settings):
    """The finished process of the engine's own command."""
    options = InferOptions(written(bundle, folder / "bundle"), **settings)
    command = [sys.executable, "-P", "-m", "relinearize.private_inference.engine", options.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done


def check_logits(record, bundle):
    assert record.fidelity.relative_error < 1e-3
    assert np.abs(np.array(record.logits) - bundle.reference.logits[: len(record.logits)]).max() < 1e-2
    assert record.fidelity.agreement == record.fidelity.private_accuracy == 100


def check_layers(record, bundle):
    """Together they are one steady inference, and each has its counts."""
    for name in ("bytes", "messages"):
        assert sum(getattr(layer, name) for layer in record.layers) == getattr(record.steady, name)
    assert any(abs(sum(layer.seconds for layer in record.layers) - one) < 1e-9 for one in record.steady.seconds)
    assert {layer.name: layer.relus for layer in record.layers if layer.positions} == bundle.kept
    assert record.layers[-1].name == "rest" and all(layer.bytes >= 0 for layer in record.layers)


def check_batch(bundle, folder, batch, protocol):
    """Four images in batches of two or three."""
    record = inferred(bundle, folder, protocol=protocol, batch=batch, n_images=4)
    check_logits(record, bundle)
    check_layers(record, bundle)
    assert len(record.logits) == record.fidelity.images == 4 and len(record.steady.seconds) == 2
    assert record.steady.seconds_per_image == record.steady.median_seconds / batch
    return record


def clients_bundle(bundle, folder, monkeypatch):
    """A folder that the client reads from now on instead of the server's."""
    own = written(bundle, folder / "clients")
    job = engine_infer.Job
    monkeypatch.setattr(engine_infer, "Job", lambda bundles, **values: job(bundles=(bundles[0], str(own)), **values))
    return own


def without_the_clients_weights(bundle, folder, monkeypatch):
    (clients_bundle(bundle, folder, monkeypatch) / "weights.safetensors").unlink()


def another_version(bundle, folder, monkeypatch):
    other = replace(bundle, about=replace(bundle.about, name="another"))
    return f"bundle={clients_bundle(other, folder, monkeypatch)} is another version than the one that this inference"


def flipped_byte(bundle, folder, monkeypatch):
    own = clients_bundle(bundle, folder, monkeypatch)
    content = bytearray((own / "masks.safetensors").read_bytes())
    content[-1] ^= 1
    (own / "masks.safetensors").write_bytes(content)
    return f"bundle {own} is damaged: masks.safetensors is not the file that graph.json was written with"


# What can be wrong with the client's bundle -> what makes it so and returns what is said.
FAULTS = {"another version": another_version, "a flipped byte": flipped_byte}


def closed_to_strangers(monkeypatch):
    """Before each inference look: no process of it listens at a port, and other users cannot open its sockets.

    Returns the list that the paths of the sockets are put into.
    """
    seen, tell = [], TwoParties.tell

    def look_and_tell(self, **command):
        for pid in (os.getpid(), *(process.pid for process in self.processes)):
            own = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
            tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp")]
            open_ports = {f"socket:[{line.split()[9]}]" for lines in tables for line in lines}
            assert not own & open_ports
        for path in {path for paths in Job.read(self.folder).sockets for path in paths}:
            seen.append(path)
            if os.getuid() == 0:
                os.seteuid(NOBODY)
                try:
                    with pytest.raises(PermissionError):
                        dialled(path)
                finally:
                    os.seteuid(0)
            assert Path(path).parent.stat().st_mode & 0o777 == 0o700
        tell(self, **command)

    monkeypatch.setattr(TwoParties, "tell", look_and_tell)
    return seen


def check_another_bundle(bundle, folder, monkeypatch, fault, protocol):
    """A client whose bundle has `fault` says so in one line, and no record is written."""
    said = FAULTS[fault](bundle, folder, monkeypatch)
    with pytest.raises(UserError, match=f"^the client cannot take part: {said}") as caught:
        inferred(bundle, folder, protocol=protocol, n_images=1)
    assert "\n" not in str(caught.value) and not (folder / "out" / "inference.json").exists()


def check_killed(bundle, folder, monkeypatch, rank, name, protocol):
    """A party that is killed in the middle is named, and the other ended."""
    started = []
    tell = TwoParties.tell

    def kill_one_soon(self, **command):
        tell(self, **command)
        started.extend(self.processes)
        threading.Timer(0.3, self.processes[rank].kill).start()

    monkeypatch.setattr(TwoParties, "tell", kill_one_soon)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"the {name} ended: killed by SIGKILL; see .*{name}.log"):
        inferred(bundle, folder, protocol=protocol, n_images=1, network="{rtt_ms:400}")
    assert time.monotonic() - began < 120, "the other was not waited for"
    assert all(process.returncode is not None for process in started)
    assert not (folder / "out" / "inference.json").exists()


def check_closed_to_strangers(bundle, folder, monkeypatch, network, protocol):
    seen = closed_to_strangers(monkeypatch)
    inferred(bundle, folder, protocol=protocol, n_images=1, network=network)
    assert len(seen) >= 2

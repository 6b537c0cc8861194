"""Two inferences into one folder: the second is told, and nothing of the first is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relinearize.errors import UserError
from relinearize.private_inference.engine.infer import alone_in

HOLDER = """
import sys
from pathlib import Path
from relinearize.private_inference.engine.infer import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_is_there(holder, tmp_path):
    with pytest.raises(UserError, match=f"output={tmp_path} is in use by process {holder.pid} on ") as caught:
        alone_in(tmp_path).__enter__()
    assert "\n" not in str(caught.value)
    (tmp_path / "other").mkdir()
    with alone_in(tmp_path / "other"):  # others are free
        pass
    holder.communicate()
    with alone_in(tmp_path):
        pass


def test_a_killed_one_leaves_the_folder_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    with alone_in(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on "):
        alone_in(tmp_path).__enter__()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "none").touch()
    with pytest.raises(UserError, match=f"output={tmp_path}/none cannot be written"):
        alone_in(tmp_path / "none").__enter__()

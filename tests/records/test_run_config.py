"""Folders of finished runs that come from somebody else: nothing in them is executed, and no secret leaves."""

import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

MIDDLE = 0.3
EXECUTE = {
    "downloads a file": ("dataset.source", {"_target_": "urllib.request.urlretrieve", "url": "file:///etc/hostname"}),
    "loads a pickle": ("backbone", {"_target_": "torch.load", "f": "evil.pt"}),
    "imports a module": ("backbone", {"_target_": "evil.Net"}),
    "through a module of ours": ("backbone", {"_target_": "relinearize.records.store.shutil.rmtree", "path": "x"}),
    "a function of ours that writes": ("dataset.source", {"_target_": "relinearize.files.write_bytes"}),
    "inside of an argument": ("dataset.source", {"x": {"_target_": "os.system"}}),
    "torchvision's downloads": ("backbone", {"_target_": "torchvision.datasets.utils.download_url", "url": "x"}),
}  # fmt: skip


@pytest.fixture
def folder(alone: dict, tmp_path: Path) -> Path:
    _, finished = next(iter(alone.values()))
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    return Path(shutil.copytree(finished, tmp_path / "theirs"))


def change(folder: Path, key: str, value: object) -> None:
    config = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(config, key, value, merge=True, force_add=True)
    OmegaConf.save(config, folder / "config.yaml")


@pytest.mark.parametrize("command", ["evaluate", "export", "cost"])
@pytest.mark.parametrize("case", EXECUTE)
def test_nothing_of_a_strangers_run_is_executed(typed, folder, command, case):
    key, node = EXECUTE[case]
    change(folder, key, node)
    status, out, err = typed(command, f"run={folder}")
    assert status == 1 and "would be run; only with trust=true" in err and err.count("\n") == 1, (out, err)
    assert str(folder / "config.yaml") in err and f"{key}" in err


def test_the_environment_is_not_read(typed, folder, monkeypatch):
    monkeypatch.setenv("SECRET", "letmein")
    change(folder, "dataset.title", "${oc.env:SECRET}")
    status, out, err = typed("evaluate", f"run={folder}")
    assert status == 1 and "dataset.title=${oc.env:SECRET} reads its surroundings" in err and "letmein" not in out + err


def test_trust_builds_ones_own_backbone(typed, folder, tmp_path):
    net = "Net = lambda **settings: build_backbone('resnet8', **settings)"
    (tmp_path / "own_builder.py").write_text(f"from relinearize.backbones import build_backbone\n{net}\n")
    config = OmegaConf.load(folder / "config.yaml")
    config.backbone._target_ = "own_builder.Net"
    OmegaConf.save(config, folder / "config.yaml")
    assert "trust=true" in typed("cost", f"run={folder}")[2]
    assert typed("cost", f"run={folder}", "trust=true")[0] == 0


BOMB = "".join(f"a{i}: &a{i} [{f'*a{i - 1}, *a{i - 1}' if i else 'x'}]\n" for i in range(30))
DAMAGED = {
    "not YAML": b"a: [1,\nb: {",
    "not UTF-8": b"seed: \xff\xfe",
    "empty": b"",
    "zeros": bytes(200),
    "a list": b"- 1\n- 2\n",
    "half of it": b"seed: 0\noutput: x\n",
    "deeply nested": b"[" * 5000,
    "exponential aliases": BOMB.encode(),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_config_is_one_line(typed, folder, case):
    (folder / "config.yaml").write_bytes(DAMAGED[case])
    status, _, err = typed("evaluate", f"run={folder}")
    assert status == 1 and err.count("\n") == 1 and str(folder / "config.yaml") in err, err
    assert case != "not YAML" or re.search("config.yaml is damaged: while parsing .*line", err), err


def test_records_that_would_command_a_terminal_are_left_out(typed, folder, caplog, undrawn):
    record = folder / "record.json"
    record.write_text(record.read_text().replace('"title": "Digits', '"title": "\\u001b[2JDigits'))
    assert typed("report", folder)[0] == 1
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.name=../../x", "method.name=../../x: must be the name of a folder, without /"),
        ("backbone.name='a/b'", "backbone.name=a/b: must be the name of a folder"),
        ("method.name='a\x1b[2Jb'", "must be the name of a folder, without / and \\ and control characters"),
        (f"method.name={'n' * 210}", "a folder's name can have 200 bytes before its key; shorten method.name"),
        (f"method.name={'ü' * 100}", "a folder's name can have 200 bytes"),
    ],
)
def test_names_stay_within_their_folder(typed, tmp_path, setting, message):
    status, _, err = typed("run", "method=random", "scale=debug", setting, f"output={tmp_path / 'out'}")
    assert status == 1 and message in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*record.json"))

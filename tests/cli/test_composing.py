"""Commands that compose conf/COMMAND.yaml: values as they are typed, help, mistakes."""

from dataclasses import fields

import pytest
from omegaconf import OmegaConf

from relinearize.commands import infer
from relinearize.commands.composing import composed
from relinearize.commands.cost import CostOptions
from relinearize.commands.evaluate import read_evaluation
from relinearize.commands.export import ExportOptions
from relinearize.commands.infer import InferOptions
from relinearize.commands.jobs import require_all
from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError

KINDS = {"cost": CostOptions, "export": ExportOptions, "infer": InferOptions}


@pytest.mark.parametrize(
    "folder", ["outputs/runs/*", "a,b", "runs/[ab]*", "with space", "it's", "back\\", "1", "true", "a=b", "{x}", "~/a"]
)
def test_paths_are_taken_as_they_are_typed(folder):
    assert composed("cost", [f"run={folder}"], CostOptions).run == folder


def test_an_empty_value_and_null_are_the_default():
    for value in ("", "null"):
        assert composed("cost", [f"run={value}"], CostOptions).run is None


@pytest.mark.parametrize("command", KINDS)
def test_help_names_every_key_with_its_comment(command, capsys):
    with pytest.raises(SystemExit) as end:
        composed(command, ["--help"], KINDS[command])
    assert not end.value.code
    printed = capsys.readouterr().out
    assert f"relinearize {command} " in printed and "defaults" not in printed
    for field in fields(KINDS[command]):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{field.name}: ")]
        assert " # " in line


def test_config_is_shown_with_what_was_typed(capsys):
    with pytest.raises(SystemExit):
        composed("export", ["--cfg", "job", "run=a", "backbone.width=8"], ExportOptions)
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.run, shown.images, shown.backbone.width) == ("a", 100, 8)


def test_a_folder_of_ones_own_holds_further_choices(tmp_path):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "mine.yaml").write_text("name: mine\n")
    for folder in (tmp_path, conf_folder()):
        arguments = ["run=a", "backbone=mine", "--config-dir", str(folder)]
        if folder == tmp_path:
            assert composed("export", arguments, ExportOptions).backbone.name == "mine"
        else:
            with pytest.raises(UserError, match="backbone=mine is unknown; valid: cryptonas, resnet18, "):
                composed("export", arguments, ExportOptions)


def test_an_evaluation_of_ones_own(tmp_path):
    (tmp_path / "evaluation").mkdir()
    text = (conf_folder() / "evaluation" / "robust.yaml").read_text()
    (tmp_path / "evaluation" / "mine.yaml").write_text(text)
    for flag in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        assert read_evaluation(["run=a", "evaluation=mine", *flag]).robust is not None


def test_the_engines_defaults_are_those_of_the_config():
    config = OmegaConf.to_container(OmegaConf.load(conf_folder() / "infer.yaml"))
    assert InferOptions(**{**config, "bundle": "b"}) == InferOptions("b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "infer needs bundle="),
        (["bundle=b", "n_images=0"], "n_images=0: must be an integer >= 1"),
        (["bundle=b", "n_images=2,3"], "n_images=2,3: infer takes one value of n_images"),
        (["bundle=b", "local_truncation=1"], "local_truncation=1: must be true or false"),
        (["bundle=b", "timeout=[1"], r"timeout=\[1 cannot be read"),
        (["bundle=b", "images=3"], "infer does not know 'images=3'; valid: bundle=, engine="),
        (["bundle=b", "--fast"], "infer does not know '--fast'"),
        (["bundle=b", "+more=1"], "more is unknown; valid: batch=, bundle=, engine="),
        (["bundle=b", "~timeout"], "timeout must be there; valid: batch=, bundle="),
        (["b"], "infer does not know 'b'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        infer.main(arguments)
    assert "\n" not in str(caught.value)


def test_missing_keys_are_named():
    config = OmegaConf.create({"a": "???", "b": {"c": "???", "d": "${a}"}, "e": 1})
    with pytest.raises(UserError, match=r"^a and b\.c must be given \(key=value\)$"):
        require_all(config)

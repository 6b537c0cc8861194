"""`relinearize export`: finished runs and checkpoints as bundles."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from bundles import small_bundle
from omegaconf import OmegaConf
from quick_runs import MIDDLE, command, shell
from rich.console import Console
from safetensors.torch import load_file, save_file

from relinearize.backbones import build_backbone
from relinearize.backbones.routes import ROUTES, state_for, with_routes
from relinearize.commands.export import main as export_command
from relinearize.errors import UserError
from relinearize.files import read_json, write_json
from relinearize.private_inference.bundle import onnx_model, read_bundle, run_bundle
from relinearize.private_inference.export import Subject, summary
from relinearize.relu.mask import Mask
from relinearize.runs.finished import FinishedRun


def export(*arguments):
    console = Console(record=True, file=open("/dev/null", "w"), width=200)  # noqa: SIM115
    folder = export_command([str(argument) for argument in arguments], console)
    return folder, console.export_text()


@pytest.fixture
def run(alone, tmp_path):
    """(record, a copy of the run's folder)."""
    record, folder = alone[MIDDLE]
    shutil.copytree(folder, tmp_path / "run")
    return record, tmp_path / "run"


def test_a_finished_run(run):
    record, folder = run
    place, text = export(f"run={folder}", "images=60", "onnx=true")
    assert place == folder / "bundle" and (folder / "bundle.onnx").is_file()
    bundle = read_bundle(place)
    assert bundle.relus == record.budget.met and f"{record.budget.met:,} of {record.budget.total:,}" in text
    assert bundle.kept == {site.name: site.kept for site in record.sites}
    about = bundle.about
    assert (about.key, about.name, about.backbone, about.width) == (record.key, record.name, "resnet8", 8)
    assert (about.dataset, about.convention, about.test_accuracy) == ("digits", "senet", record.accuracy.test)
    reference = bundle.reference
    assert reference.images.shape == (60, 1, 8, 8) and 0 <= reference.images.min() < reference.images.max() <= 1
    right = np.mean(reference.logits.argmax(1) == reference.labels)
    assert f"60 test images, {100 * right:.2f} % right" in text and right > 0.5
    with torch.no_grad():
        expected = FinishedRun.open(folder).network()(torch.from_numpy(reference.images)).numpy()
    assert np.allclose(run_bundle(bundle, reference.images), expected, atol=1e-4)
    with pytest.raises(UserError, match="bundle exists already; name another folder by output="):
        export(f"run={folder}")


def test_logits_that_are_no_numbers_are_not_right():
    bundle = small_bundle()
    logits = bundle.reference.logits.copy()
    logits[2] = np.nan
    reference = dataclasses.replace(bundle.reference, logits=logits, labels=logits.argmax(1))
    about = Subject(None, None, (3, 16, 16), bundle.about)
    assert "8 test images, 87.50 % right" in "".join(summary(dataclasses.replace(bundle, reference=reference), about))


def test_without_the_images_of_the_run(run):
    record, folder = run
    config = OmegaConf.load(folder / "config.yaml")
    config.dataset.source = {"_target_": "relinearize.data.image_folder.ImageFolder", "root": "absent"}
    OmegaConf.save(config, folder / "config.yaml")
    assert read_bundle(export(f"run={folder}", "images=0", "trust=true")[0]).relus == record.budget.met


def test_all_test_images_and_their_accuracy(run):
    record, folder = run
    reference = read_bundle(export(f"run={folder}", "images=100000")[0]).reference
    assert len(reference.labels) == record.accuracy.n_test
    right = 100 * np.mean(reference.logits.argmax(1) == reference.labels)
    # Folded batch norms round differently: an image on the border may change sides.
    best = np.sort(reference.logits, axis=1)
    undecided = 100 * np.mean(best[:, -1] - best[:, -2] < 1e-4)
    assert abs(right - record.accuracy.test) <= undecided + 1e-6


def test_routes_are_the_sub_folders_of_the_run(run):
    _, folder = run
    other = folder / "route-adversarial"
    shutil.copytree(folder, other)
    for place, route in ((folder, "clean"), (other, "adversarial")):
        write_json(place / "record.json", read_json(place / "record.json") | {"route": route})
    place, text = export(f"run={folder}", "images=0")
    assert place == folder / "bundle" and "route clean (also: route=adversarial)" in text
    place, text = export(f"run={folder}", "images=0", "route=adversarial")
    assert place == other / "bundle" and read_bundle(place).about.route == "adversarial"
    assert read_bundle(place).reference.labels is None
    with pytest.raises(UserError, match=r"route=augmix: .* has no such route; valid: clean, adversarial"):
        export(f"run={folder}", "images=0", "route=augmix")


def test_a_checkpoint_with_a_mask_and_one_without(run, tmp_path):
    record, folder = run
    network = ["backbone=resnet8", "backbone.width=8", "dataset=digits"]
    weights = f"weights={folder / 'weights.safetensors'}"
    masked = read_bundle(
        export(weights, f"mask={folder / 'mask.safetensors'}", *network, f"output={tmp_path / 'm'}")[0]
    )
    whole = read_bundle(export(weights, *network, f"output={tmp_path / 'w'}")[0])
    assert masked.relus == record.budget.met and whole.relus == record.budget.total
    assert (masked.about.name, masked.about.key, masked.about.width) == ("weights", "", 8)
    expected = read_bundle(export(f"run={folder}")[0]).reference.logits
    assert np.allclose(masked.reference.logits, expected, atol=1e-5)

    names = with_routes(build_backbone("resnet8", classes=10, image_size=8, width=8), ROUTES[2]).state_dict()
    routed = state_for(load_file(folder / "weights.safetensors"), names)
    routed["bn1.adversarial.bias"] += 3
    save_file({name: value.clone() for name, value in routed.items()}, tmp_path / "routed.safetensors")
    weights = f"weights={tmp_path / 'routed.safetensors'}"
    clean = read_bundle(export(weights, *network, f"output={tmp_path / 'c'}")[0])
    mask, about = Mask.from_file(folder / "mask.safetensors")
    mask.to_file(tmp_path / "other.safetensors", dataclasses.replace(about, replacement="quadratic"))
    with pytest.raises(UserError, match=r"does not have at removed positions what .*other\.safetensors says"):
        export(weights, f"mask={tmp_path / 'other.safetensors'}", *network, f"output={tmp_path / 'o'}")
    polynomials = {f"module.{site}.coefficients": torch.zeros(3, len(kept), 1, 1) for site, kept in mask.items()}
    trained = load_file(folder / "weights.safetensors")
    polynomials |= {f"module.{name}": value for name, value in trained.items()}
    save_file(polynomials, tmp_path / "polynomials.safetensors")
    given = [f"weights={tmp_path / 'polynomials.safetensors'}", f"mask={tmp_path / 'other.safetensors'}"]
    assert read_bundle(export(*given, *network, f"output={tmp_path / 'p'}")[0]).coefficients
    other = read_bundle(export(weights, *network, "route=adversarial", f"output={tmp_path / 'a'}")[0])
    assert np.allclose(clean.reference.logits, whole.reference.logits, atol=1e-5)
    assert other.about.route == "adversarial"
    assert np.abs(other.reference.logits - clean.reference.logits).max() > 0.1


MISTAKES = {
    (): "export needs run=FOLDER",
    ("run=a", "weights=b"): "export needs run=FOLDER",
    ("run=a", "backbone=resnet8"): "backbone=resnet8 goes with weights=FILE only",
    ("run=a", "+backbone.x=1"): r"\+backbone\.x=1 goes with weights=FILE only",
    ("run=a", "~dataset.mean"): "~dataset.mean goes with weights=FILE only",
    ("run=a", "dataset.root=/d"): "^export run=... does not take dataset.root=/d: root=FOLDER says where the run's",
    ("run=a", "++dataset.root=/d"): r"^export run=... does not take \+\+dataset.root=/d: root=FOLDER says where",
    ("run=a", "mask=m"): "mask=m goes with weights=FILE only",
    ("weights=w",): "needs output=FOLDER",
    ("run=a", "pages=3"): "export does not know 'pages=3'; valid: run=, weights=",
    ("run=a", "images=some"): "images=some: must be an integer",
    ("run=a", "onnx=yes"): "onnx=yes: must be true or false",
    ("run=a",): "run=a is no finished run: record.json is missing there",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_are_one_line(arguments):
    with pytest.raises(UserError, match=MISTAKES[arguments]) as caught:
        export(*arguments)
    assert "\n" not in str(caught.value)


def test_an_onnx_model_that_fails_leaves_no_bundle(run, monkeypatch):
    _, folder = run
    monkeypatch.setattr(onnx_model, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match="onnxruntime's logits differ"):
        export(f"run={folder}", "images=0", "onnx=true")
    assert not (folder / "bundle").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="exists already"):
        export(f"run={folder}", "images=0", "onnx=true", "output=.")


def test_other_images_are_refused(run):
    _, folder = run
    record = read_json(folder / "record.json")
    record["dataset"]["fingerprint"] = "0" * 64
    write_json(folder / "record.json", record)
    with pytest.raises(UserError, match="are not those of the run; export takes root=FOLDER, and with images=0"):
        export(f"run={folder}")
    assert not (folder / "bundle").exists()


@pytest.mark.slow
def test_from_the_command_line(run, typed):
    """Once as a program, whose start takes longer than the rest."""
    _, folder = run
    done = shell(command("export", f"run={folder}", "images=5"))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str(folder / "bundle")
    status, _, err = typed("export", f"run={folder}")
    assert status == 1 and err.count("\n") == 1 and "exists already" in err
    assert "images: 100" in typed("export", "--help")[1]

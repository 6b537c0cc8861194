"""Corruptions in robust evaluations of whole quick runs: published files of both layouts, frost, interruptions."""

import shutil

import numpy as np
import pytest
from PIL import Image
from quick_runs import quick_run
from robust_runs import evaluate, lasting, pieces

from relinearize.corruptions.constants import CORRUPTIONS, SEVERITIES
from relinearize.corruptions.files import CorruptionFiles
from relinearize.corruptions.metrics import TINY_ERRORS, TINY_RESNET18
from relinearize.evaluation import corrupted as robust_corruptions
from relinearize.files import file_digest
from relinearize.records.store import content_key
from relinearize.runs.finished import FinishedRun

ALONE = ["evaluation.attacks=[]", "evaluation.checks=false"]
FEW = ["evaluation.n_corruptions=4", "evaluation.n_clean=4"]


@pytest.fixture
def folder(random_masks, tmp_path):
    return shutil.copytree(random_masks[1], tmp_path / "run")


@pytest.fixture
def cells(monkeypatch):
    """Lists the corruptions and severities that were really evaluated; raises at number `cells.fail_at`."""

    class Cells(list):
        fail_at = None

    done, compute = Cells(), robust_corruptions.corrupted

    def counted(subject, source, name, severity, *images):
        if len(done) == done.fail_at:
            raise KeyboardInterrupt
        done.append((name, severity))
        return compute(subject, source, name, severity, *images)

    monkeypatch.setattr(robust_corruptions, "corrupted", counted)
    return done


def test_array_files_are_evaluated(folder, tmp_path, monkeypatch):
    """Severity 1 of each is the test set, the others are black: a CIFAR-10-C whose numbers are known."""
    run = FinishedRun.open(folder)
    images = run.source().load("test")
    blocks = np.zeros((5, *images.images.shape), np.uint8)
    blocks[0] = images.images.numpy()
    place = tmp_path / "C"
    place.mkdir()
    for name in CORRUPTIONS:
        np.save(place / f"{name}.npy", blocks.reshape(-1, *blocks.shape[2:]))
    np.save(place / "labels.npy", np.tile(images.labels.numpy(), 5))
    monkeypatch.setitem(CorruptionFiles.__init__.__kwdefaults__, "expected", len(images))
    (record,) = evaluate(folder, *ALONE, "evaluation.corruptions=files", f"corruptions.folder={place}")
    found = record.corruptions
    digests = {name: file_digest(place / f"{name}.npy") for name in (*CORRUPTIONS, "labels")}
    assert found.source == f"files sha256 {content_key(digests)}"
    assert (found.constants, found.mce_anchor, found.n, found.left_out) == ("cifar", "mean error", 360, [])
    assert list(found.accuracy) == list(CORRUPTIONS)
    black = found.accuracy["fog"][1]
    assert abs(black - 10) < 2  # one class for all: a tenth of a stratified test set
    assert all(values == pytest.approx([run.record.accuracy.test, *[black] * 4]) for values in found.accuracy.values())
    assert found.npa == pytest.approx(100 - found.mce) == pytest.approx((run.record.accuracy.test + 4 * black) / 5)


@pytest.mark.slow
def test_folder_files_are_evaluated(tmp_path, monkeypatch):
    """Grey of a class's own brightness, whatever the severity: a Tiny-ImageNet-C of two classes."""
    grey = {"cat": 40, "dog": 215}
    for place in (
        "set/train",
        "set/test",
        *(f"C/{name}/{severity}" for name in CORRUPTIONS for severity in SEVERITIES),
    ):
        for name, level in grey.items():
            (tmp_path / place / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (8, 8), (level + index,) * 3).save(tmp_path / place / name / f"{index}.JPEG")
    settings = [f"dataset.root={tmp_path / 'set'}", "dataset.image_size=8", "dataset.holdout=0", "dataset.subset=null"]
    settings += ["method.teacher.batch_size=6", "method.finetune.batch_size=6", "method.teacher.epochs=20"]
    settings += ["dataset.augment.crop_padding=0", "budget.fraction=0.9"]
    settings += ["method.teacher.selection=last", "method.finetune.selection=last"]
    _, folder = quick_run(tmp_path / "runs", "dataset=image_folder", *settings, method="random")
    monkeypatch.setitem(CorruptionFiles.__init__.__kwdefaults__, "expected", 6)
    (record,) = evaluate(folder, *ALONE, "evaluation.corruptions=files", f"corruptions.folder={tmp_path / 'C'}")
    found = record.corruptions
    assert found.source.startswith("files sha256 ") and len(found.source.split()[-1]) == 64
    assert (found.constants, found.mce_anchor, found.n) == ("tiny", TINY_RESNET18, 6)
    assert {value for values in found.accuracy.values() for value in values} == {record.clean.accuracy}
    anchor = sum(1 / error for error in TINY_ERRORS) / 15
    assert found.mce == pytest.approx((100 - record.clean.accuracy) * anchor)


@pytest.mark.slow
def test_frost_given_later_costs_frost_only(folder, tmp_path, cells):
    (before,) = evaluate(folder, *ALONE, *FEW)
    assert len(cells) == 14 * 5 and before.corruptions.left_out == ["frost"]
    for _, severity in cells:
        assert 1 <= severity <= 5
    place = tmp_path / "photographs"
    place.mkdir()
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(60, 256, (200, 200, 3), np.uint8)).save(place / "ice.png")
    frost = ["corruptions.frost_images=" + str(place), f"corruptions.cache={tmp_path / 'cache'}"]
    (after,) = evaluate(folder, *ALONE, *FEW, *frost)
    assert cells[14 * 5 :] == [("frost", severity) for severity in SEVERITIES]
    assert after.corruptions.left_out == [] and len(after.corruptions.accuracy) == 15
    assert before.corruptions.accuracy.items() <= after.corruptions.accuracy.items()
    hashes = {what["source"]["frost_images_sha256"] for what, _ in pieces(folder) if what.get("corruption") == "frost"}
    assert len(hashes) == 1 and None not in hashes
    Image.fromarray(draw.integers(60, 256, (200, 200, 3), np.uint8)).save(place / "ice2.png")
    (folder / "robustness.json").unlink()
    (others,) = evaluate(folder, *ALONE, *FEW, *frost)
    sources = [record.corruptions.source for record in (before, after, others)]
    assert sources[0] == "generated" and len(set(sources)) == 3, "a column for each kind of photographs"
    assert all(source.startswith("generated with frost sha256 ") for source in sources[1:])
    assert cells[15 * 5 :] == [("frost", severity) for severity in SEVERITIES], "other photographs"


@pytest.mark.slow
def test_an_evaluation_killed_between_corruptions_goes_on(folder, random_masks, tmp_path, cells):
    (undisturbed,) = evaluate(folder, *ALONE, *FEW)
    cells.clear()
    other = shutil.copytree(random_masks[1], tmp_path / "other")
    cells.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate(other, *ALONE, *FEW)
    assert not (other / "robustness.json").exists()
    cells.fail_at = None
    (resumed,) = evaluate(other, *ALONE, *FEW)
    assert len(cells) == len(set(cells)) == 14 * 5
    assert lasting(resumed) == lasting(undisturbed)

"""Sources of corrupted images: generated ones with their cache, published files in both layouts, and the means."""

import json
import os
from pathlib import Path

import hydra.utils
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from relinearize.corruptions.constants import CORRUPTIONS, EXTRA, SEVERITIES
from relinearize.corruptions.files import CorruptionFiles
from relinearize.corruptions.generated import GeneratedCorruptions
from relinearize.corruptions.metrics import TINY_RESNET18, corruption_score
from relinearize.errors import UserError

ROOT = Path(__file__).parents[2]
CLASSES = ["n01", "n02", "n03"]


def clean(number: int = 6, size: int = 8, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (number, size, size, channels), dtype=np.uint8), np.arange(number) % 3


def write_arrays(folder: Path, images: np.ndarray, labels: np.ndarray, names=CORRUPTIONS) -> Path:
    """A small CIFAR-10-C: the images, with corruption number and severity in the first value."""
    folder.mkdir()
    for number, name in enumerate(names):
        blocks = np.concatenate([images] * 5)
        blocks[:, 0, 0, 0] = 10 * number + np.repeat(SEVERITIES, len(images))
        np.save(folder / f"{name}.npy", blocks)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    return folder


def write_folders(folder: Path, per_class: int = 2, size: int = 8, names=CORRUPTIONS, classes=CLASSES) -> Path:
    """A small Tiny-ImageNet-C; grey level of an image: 50 x class + 10 x severity."""
    for name in names:
        for severity in SEVERITIES:
            for label, wnid in enumerate(classes):
                place = folder / name / str(severity) / wnid
                place.mkdir(parents=True)
                for index in range(per_class):
                    picture = Image.new("RGB", (size, size), (50 * label + 10 * severity,) * 3)
                    picture.save(place / f"val_{index}.JPEG")
    return folder


def test_generated_images_stream_and_say_what_they_are() -> None:
    images, labels = clean()
    source = GeneratedCorruptions(images, labels, seed=4, extra=True)
    assert source.source == "generated" and len(source) == 6
    assert source.names == tuple(name for name in CORRUPTIONS + EXTRA if name != "frost")
    described = json.loads(json.dumps(source.describe()))
    assert described["constants"] == "cifar" and described["seed"] == 4 and "frost" in described["left_out"]
    whole, found_labels = source.images("glass_blur", 2)
    np.testing.assert_array_equal(found_labels, labels)
    some, some_labels = source.images("glass_blur", 2, positions=[5, 1])
    np.testing.assert_array_equal(some, whole[[5, 1]])
    assert some_labels.tolist() == [2, 1] and some_labels.dtype == np.int64
    with pytest.raises(UserError, match="corruption frost is left out: needs photographs"):
        source.images("frost", 1)
    with pytest.raises(ValueError, match="valid are 0 to 5"):
        source.images("fog", 1, positions=[6])


def test_generated_settings_are_checked() -> None:
    images, labels = clean()
    for settings, message in (
        ({"constants": "imagenet"}, r"corruptions\.constants=imagenet is unknown; valid: auto, cifar, tiny"),
        ({"seed": -1}, r"corruptions\.seed=-1: must be an integer >= 0"),
        ({"cache": True}, r"corruptions\.cache=True is no path"),
        ({"extra": "no"}, r"corruptions\.extra=no is unknown; valid: True, False"),
    ):
        with pytest.raises(UserError, match=message):
            GeneratedCorruptions(images, labels, **settings)
    with pytest.raises(UserError, match="speckle_noise is left out: was not requested"):
        GeneratedCorruptions(images, labels).images("speckle_noise", 1)
    grey = GeneratedCorruptions(*clean(channels=1), extra=True)
    assert "saturate" not in grey.names and "spatter" in grey.names
    with pytest.raises(UserError, match="saturate is left out: grey images have no saturation"):
        grey.images("saturate", 1)
    assert GeneratedCorruptions(*clean(2, size=64)).constants == "tiny"


def test_cache_holds_what_is_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = clean()
    fresh = GeneratedCorruptions(images, labels, seed=1).images("shot_noise", 3)[0]
    cached = GeneratedCorruptions(images, labels, seed=1, cache=tmp_path)
    np.testing.assert_array_equal(cached.images("shot_noise", 3)[0], fresh)
    (file,) = tmp_path.glob("*/*.npy")
    assert file.name == "shot_noise-3.npy" and json.loads((file.parent / "content.json").read_text())["seed"] == 1
    written = file.stat().st_mtime_ns
    again = GeneratedCorruptions(images, labels, seed=1, cache=tmp_path, extra=True)
    with monkeypatch.context() as patch:
        patch.setattr("relinearize.corruptions.generated.generate", None)  # nothing is made anew
        np.testing.assert_array_equal(again.images("shot_noise", 3, [4, 0])[0], fresh[[4, 0]])
    assert file.stat().st_mtime_ns == written

    GeneratedCorruptions(images, labels, seed=2, cache=tmp_path).images("shot_noise", 3)
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    GeneratedCorruptions(other, labels, seed=1, cache=tmp_path).images("shot_noise", 3)
    assert len(list(tmp_path.iterdir())) == 3, "another seed and other pixels have folders of their own"

    file.write_bytes(file.read_bytes()[:200])
    np.testing.assert_array_equal(cached.images("shot_noise", 3)[0], fresh)
    assert not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"corruptions\.cache: .* cannot be written"):
        GeneratedCorruptions(images, labels, cache=tmp_path / "file").images("fog", 1)


def test_array_files_are_read_by_severity(tmp_path: Path) -> None:
    images, labels = clean()
    folder = write_arrays(tmp_path / "C", images, labels)
    source = CorruptionFiles(images, labels, CLASSES, folder=folder, expected=6)
    assert source.source == "files" and source.describe()["layout"] == "arrays"
    found, found_labels = source.images("impulse_noise", 4)
    assert (found[:, 0, 0, 0] == 24).all() and (found[:, 1:] == images[:, 1:]).all()
    assert found_labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(source.images("fog", 5, [5, 4])[0][:, 1:], images[[5, 4], 1:])
    digests = source.describe()["sha256"]
    assert set(digests) == {*CORRUPTIONS, "labels"} and len(digests["fog"]) == 64
    assert json.dumps(source.describe())


def test_array_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels = clean()
    folder = write_arrays(tmp_path / "C", images, labels)

    def refused(match: str, test_labels: np.ndarray = labels, **options) -> None:
        with pytest.raises(UserError, match=match):
            CorruptionFiles(images, test_labels, CLASSES, folder=folder, **{"expected": 6} | options)

    refused(
        r"belongs to a test set of 10,000 images, but dataset's has 6; take evaluation\.corruptions=generated",
        expected=10_000,
    )
    refused(r"speckle_noise\.npy: missing", extra=True)
    refused(r"labels\.npy: 2 of the 6 labels of severity 1 are not the test set's \(first at row 0: 0, not 2\)",
            np.array([2, 1, 2, 2, 1, 2]))  # fmt: skip
    wrong = np.tile(labels, 5)
    wrong[-1] = 0
    np.save(folder / "labels.npy", wrong)
    refused("1 of the 6 labels of severity 5 are not the test set's")
    np.save(folder / "labels.npy", labels)
    refused(r"labels\.npy: is int64 6, expected 30 integers: the test set's labels five times")
    np.save(folder / "labels.npy", np.tile(labels, 5) + 0.0)
    refused(r"labels\.npy: is float64 30")
    np.save(folder / "labels.npy", np.tile(labels, 5))
    fog = np.load(folder / "fog.npy")
    np.save(folder / "fog.npy", fog[:-1])
    refused(r"fog\.npy: is uint8 29 x 8 x 8 x 3, expected uint8 30 x 8 x 8 x 3: five blocks of 6 images")
    np.save(folder / "fog.npy", fog.astype(float))
    refused(r"fog\.npy: is float64 30 x 8 x 8 x 3")
    np.save(folder / "fog.npy", np.array([{}]), allow_pickle=True)
    refused(r"fog\.npy: is no NumPy array of numbers")
    (folder / "fog.npy").unlink()
    refused(r"fog\.npy: missing; CIFAR-10-C and CIFAR-100-C hold labels\.npy and one \.npy for each corruption")
    folder = tmp_path / "absent"
    refused(r"absent: no such folder; give that of CIFAR-10-C")


def test_folders_are_read_by_class(tmp_path: Path) -> None:
    images, labels = clean()
    folder = write_folders(tmp_path / "C")
    source = CorruptionFiles(images, labels, CLASSES, folder=folder, expected=6)
    assert source.describe()["layout"] == "folders"
    found, found_labels = source.images("snow", 3)
    assert found.shape == (6, 8, 8, 3) and found_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.abs(found.astype(int).mean(axis=(1, 2, 3)) - (50 * found_labels + 30)).max() <= 2
    found, found_labels = source.images("snow", 3, positions=[5, 0])
    assert found_labels.tolist() == [2, 0]
    assert set(source.describe()["sha256"]) == set(CORRUPTIONS)


def test_names_in_folders_may_be_of_any_bytes(tmp_path: Path) -> None:
    images, labels = clean()
    folder = write_folders(tmp_path / "C")
    (path,) = (folder / "fog" / "2" / "n01").glob("val_0.JPEG")
    path.rename(path.with_name(os.fsdecode(b"val_\xfc.JPEG")))
    source = CorruptionFiles(images, labels, CLASSES, folder=folder, expected=6)
    assert len(source.describe()["sha256"]["fog"]) == 64


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels = clean()
    folder = write_folders(tmp_path / "C")

    def refused(match: str, classes=CLASSES, **options) -> None:
        with pytest.raises(UserError, match=match):
            CorruptionFiles(images, labels, classes, folder=folder, **{"expected": 6} | options)

    refused(
        r"gaussian_noise/1: holds 3 of the test set's 4 classes; the first that is missing is n04", [*CLASSES, "n04"]
    )
    refused(r"gaussian_noise/1: n03 is none of the test set's 2 classes", CLASSES[:2])
    refused(r"spatter/1: no such folder|speckle_noise/1: no such folder", extra=True)
    (folder / "fog" / "2" / "n01" / "val_0.JPEG").unlink()
    refused(r"fog/2: holds 5 images, expected 6")
    write_folders(tmp_path / "big", size=9, names=["fog"])
    (folder / "fog" / "2").rename(tmp_path / "away")
    refused(r"fog/2: no such folder; Tiny-ImageNet-C holds NAME/SEVERITY/CLASS/\*\.JPEG")
    (tmp_path / "big" / "fog" / "2").rename(folder / "fog" / "2")
    source = CorruptionFiles(images, labels, CLASSES, folder=folder, expected=6)
    with pytest.raises(UserError, match="is 9 x 9 pixels, expected 8 x 8"):
        source.images("fog", 2)
    grey, labels_of_grey = clean(channels=1)
    with pytest.raises(UserError, match="need a test set of square RGB images"):
        CorruptionFiles(grey, labels_of_grey, CLASSES, folder=folder, expected=6)


def test_scores_say_what_is_missing() -> None:
    accuracies = {(name, severity): 0.9 - 0.1 * severity for name in CORRUPTIONS for severity in SEVERITIES}
    accuracies |= {(name, severity): 0.0 for name in EXTRA for severity in SEVERITIES}
    npa, mce = corruption_score(accuracies)
    assert npa == pytest.approx(0.6) and mce == pytest.approx(0.4)
    # Each error is 0.4: the mean of 0.4 / anchor.
    errors = [0.8037, 0.7597, 0.7758, 0.8426, 0.8274, 0.7907, 0.8212, 0.7497, 0.7381, 0.7433, 0.68, 0.8939, 0.7308]
    errors += [0.6121, 0.6452]
    assert corruption_score(accuracies, TINY_RESNET18) == (
        npa,
        pytest.approx(sum(0.4 / error for error in errors) / 15),
    )

    accuracies |= {("fog", severity): 0.0 for severity in SEVERITIES}
    assert corruption_score(accuracies)[0] == pytest.approx(0.6 * 14 / 15)
    without = {key: accuracy for key, accuracy in accuracies.items() if key[0] != "frost"}
    assert corruption_score(without)[0] == pytest.approx(0.6 * 13 / 14)
    del without["fog", 2]
    with pytest.raises(ValueError, match=r"fog has severities \[1, 3, 4, 5\]"):
        corruption_score(without)
    with pytest.raises(ValueError, match="none of the standard corruptions"):
        corruption_score({("spatter", 1): 0.5})


def test_configs_make_sources(tmp_path: Path) -> None:
    images, labels = clean()
    generated = OmegaConf.load(ROOT / "conf" / "corruptions" / "generated.yaml")
    config = OmegaConf.create({"evaluation": {"seed": 0}, "corruptions": generated})  # its seed is the evaluation's
    source = hydra.utils.instantiate(config.corruptions)(images=images, labels=labels, class_names=CLASSES)
    assert isinstance(source, GeneratedCorruptions) and source.constants == "cifar"
    files = OmegaConf.load(ROOT / "conf" / "corruptions" / "files.yaml")
    files.folder = str(write_arrays(tmp_path / "C", images, labels))
    with pytest.raises(UserError, match="belongs to a test set of 10,000"):
        hydra.utils.instantiate(files)(images=images, labels=labels, class_names=CLASSES)
    source = hydra.utils.instantiate(files)(images=images, labels=labels, class_names=CLASSES, expected=6)
    assert isinstance(source, CorruptionFiles)

"""Sources of single files: layouts, cache, and damaged images."""

import contextlib
import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fake_sets import write_tiny, write_tree
from PIL import Image

from relinearize.data import decoding, image_folder
from relinearize.data.image_folder import ImageFolder
from relinearize.data.tiny_imagenet import TinyImageNet
from relinearize.errors import UserError
from relinearize.files import file_digest


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    return tmp_path / "user-cache"


@pytest.fixture(scope="module")
def tiny_original(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture
def tiny(tiny_original, tmp_path):
    shutil.copytree(tiny_original, tmp_path / "tiny")
    return tmp_path / "tiny"


def decodes(monkeypatch) -> list:
    """Collects the paths that are decoded from now on."""
    seen, original = [], decoding.open_image

    def spy(path):
        seen.append(path)
        return original(path)

    monkeypatch.setattr(decoding, "open_image", spy)
    return seen


def test_tiny_imagenet_reads_the_original_layout(tiny):
    source = TinyImageNet(tiny)
    train, test = source.load("train"), source.load("test")
    assert train.images.shape == (400, 64, 64, 3) and test.images.shape == (200, 64, 64, 3)
    assert train.labels.bincount().tolist() == [2] * 200 and test.labels.tolist() == list(range(200))
    assert train.class_names[7] == "n00000007"
    folder = tiny / "tiny-imagenet-200"
    first = np.asarray(Image.open(folder / "train/n00000003/images/n00000003_1.JPEG").convert("RGB"))
    assert np.array_equal(train.images[7].numpy(), first)
    third = np.asarray(Image.open(folder / "val/images/val_21.JPEG").convert("RGB"))
    assert np.array_equal(test.images[3].numpy(), third)


@pytest.mark.parametrize("deep", [False, True])
def test_val_sorted_into_class_folders_is_the_same_set(tiny, deep):
    original = TinyImageNet(tiny)
    fingerprint, images = original.fingerprint(), original.load("test").images.clone()
    val = tiny / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        folder = val / wnid / "images" if deep else val / wnid
        folder.mkdir(parents=True)
        (val / "images" / name).rename(folder / name)
    (val / "images").rmdir()
    shutil.rmtree(tiny / "tiny-imagenet-200" / ".relinearize")
    resorted = TinyImageNet(tiny)
    assert resorted.fingerprint() == fingerprint and torch.equal(resorted.load("test").images, images)


def test_decoded_once_then_read_from_the_cache(tiny, monkeypatch):
    images = TinyImageNet(tiny).load("test").images
    seen = decodes(monkeypatch)
    again = TinyImageNet(tiny).load("test").images
    assert torch.equal(images, again) and not seen
    names = {path.suffix for path in (tiny / "tiny-imagenet-200" / ".relinearize").iterdir()}
    assert names <= {".npy", ".sha256", ".lock"}


def test_writing_to_loaded_images_leaves_the_cache_alone(tmp_path):
    source = ImageFolder(write_tree(tmp_path / "set"), image_size=16)
    images = source.load("train").images
    images.zero_()
    assert source.load("train").images.sum() > 0


def test_stale_cache_is_rebuilt_and_removed(tmp_path):
    root = write_tree(tmp_path / "set")
    before = ImageFolder(root, image_size=16)
    assert len(before.load("train")) == 6
    Image.new("RGB", (16, 16), (255, 0, 0)).save(root / "train" / "cat" / "0.png")
    after = ImageFolder(root, image_size=16)
    assert after.load("train").images[0].tolist() == [[[255, 0, 0]] * 16] * 16
    assert after.fingerprint() != before.fingerprint()
    assert len(list((root / ".relinearize").glob("train-*.npy"))) == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "one byte", "zeros"])
def test_damaged_cache_is_rebuilt(tmp_path, damage, monkeypatch):
    root = write_tree(tmp_path / "set")
    images = ImageFolder(root, image_size=16).load("train").images.clone()
    array = next((root / ".relinearize").glob("train-*.npy"))
    if damage == "missing":
        array.unlink()
    else:
        whole = array.read_bytes()
        flipped = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
        kinds = {
            "cut": whole[:-100],
            "garbage": b"garbage",
            "one byte": flipped,
            "zeros": whole[:500] + bytes(500) + whole[1000:],
        }
        array.write_bytes(kinds[damage])
    seen = decodes(monkeypatch)
    assert torch.equal(ImageFolder(root, image_size=16).load("train").images, images) and len(seen) == 6


def test_what_a_killed_decoding_left_is_removed(tmp_path):
    root = write_tree(tmp_path / "set")
    ImageFolder(root, image_size=16).load("train")
    array = next((root / ".relinearize").glob("train-*.npy"))
    array.unlink()
    left = array.with_name(f".{array.name}.12345.tmp")
    left.write_bytes(bytes(1000))
    ImageFolder(root, image_size=16).load("train")
    assert array.exists() and not left.exists()


def test_two_jobs_at_once_decode_once(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "set", per_class=20)
    seen = decodes(monkeypatch)
    with ThreadPoolExecutor(2) as jobs:
        loaded = list(jobs.map(lambda _job: ImageFolder(root, image_size=16).load("train").images, range(2)))
    assert torch.equal(*loaded) and len(seen) == 40


def test_whoever_waited_for_decoded_images_looks_anew_before_it_decodes(tmp_path, monkeypatch):
    """Another node, whose file a client of NFS does not see before, has made them in the meantime."""
    path, made = tmp_path / "cache" / "a.npy", []

    def appears(folder):
        assert folder == path.parent
        monkeypatch.setattr(decoding, "look_anew", lambda folder: None)
        decoding.load_array(path, (3,), lambda array: made.append(array.fill(7)))

    monkeypatch.setattr(decoding, "look_anew", appears)
    monkeypatch.setattr(decoding, "FileLock", lambda *_, **__: contextlib.nullcontext())
    found = decoding.load_array(path, (3,), lambda array: pytest.fail("decoded once more"))
    assert found.tolist() == [7, 7, 7] and len(made) == 1


def test_full_disk_falls_back_to_the_user_cache(tmp_path, user_cache, monkeypatch):
    root = write_tree(tmp_path / "set")
    answers = iter([OSError(errno.ENOSPC, "No space left on device"), None])

    def allocate(*_arguments):
        if error := next(answers):
            raise error

    monkeypatch.setattr(decoding.os, "posix_fallocate", allocate, raising=False)
    assert len(ImageFolder(root, image_size=16).load("train")) == 6
    assert len(list(user_cache.rglob("*.npy"))) == 1 and not list((root / ".relinearize").glob("*.npy"))
    assert not list(root.rglob("*.tmp"))


def test_failed_decoding_leaves_no_cache(tmp_path):
    root = write_tree(tmp_path / "set")
    (root / "train" / "dog" / "1.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"dog.1\.png: cannot be decoded"):
        ImageFolder(root, image_size=16).load("train")
    assert not [path for path in (root / ".relinearize").iterdir() if path.suffix != ".lock"]


def test_read_only_set_is_cached_for_the_user(tmp_path, user_cache, monkeypatch):
    root = write_tree(tmp_path / "set")
    (root / ".relinearize").write_text("a file: nothing can be written here")
    images = ImageFolder(root, image_size=16).load("train").images
    assert len(list(user_cache.rglob("train-*.npy"))) == 1
    seen = decodes(monkeypatch)
    assert torch.equal(ImageFolder(root, image_size=16).load("train").images, images) and not seen


def test_no_place_for_the_cache(tmp_path, user_cache):
    root = write_tree(tmp_path / "set")
    (root / ".relinearize").write_text("")
    user_cache.write_text("")
    with pytest.raises(UserError, match=r"neither to .*\.relinearize.* nor to .*user-cache.*XDG_CACHE_HOME"):
        ImageFolder(root, image_size=16).load("train")


def test_truncated_jpeg_is_named(tiny):
    file = tiny / "tiny-imagenet-200" / "train" / "n00000009" / "images" / "n00000009_0.JPEG"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"n00000009_0\.JPEG: cannot be decoded .*truncated"):
        TinyImageNet(tiny).load("train")


def test_tiny_imagenet_of_another_size(tiny):
    file = tiny / "tiny-imagenet-200" / "train" / "n00000009" / "images" / "n00000009_0.JPEG"
    Image.new("RGB", (32, 48)).save(file)
    with pytest.raises(UserError, match=r"n00000009_0\.JPEG: is 32 x 48 pixels, expected 64 x 64"):
        TinyImageNet(tiny).load("train")


def test_grey_palette_and_cmyk_images_become_rgb(tmp_path):
    root = write_tree(tmp_path / "set")
    Image.new("L", (16, 16), 100).save(root / "train" / "cat" / "0.png")
    Image.new("CMYK", (16, 16), (0, 0, 0, 255)).save(root / "train" / "cat" / "1.jpg")
    Image.new("RGB", (16, 16), (9, 8, 7)).quantize(2).save(root / "train" / "cat" / "2.png")
    (root / "train" / "cat" / "1.png").unlink()
    images = ImageFolder(root, image_size=16).load("train").images
    assert images[0].unique().tolist() == [100]
    assert images[1].max() < 10
    assert images[2, 0, 0].tolist() == [9, 8, 7]


def test_sixteen_bits_and_transparency_keep_what_is_seen(tmp_path):
    root = write_tree(tmp_path / "set")
    cat = root / "train" / "cat"
    for file in cat.iterdir():
        file.unlink()
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("0.png", "1.tif"):
        Image.fromarray(deep).save(cat / name)
    (cat / "1b.pgm").write_bytes(b"P5 16 16 65535\n" + deep.astype(">u2").tobytes())
    shape = np.zeros((16, 16, 4), np.uint8)  # black, drawn in the alpha channel alone
    shape[4:8, 4:8, 3] = 255
    shape[8:12, 4:8, 3] = 128
    Image.fromarray(shape).save(cat / "2.png")
    Image.fromarray(shape[..., [0, 3]]).save(cat / "3.png")
    clear = Image.fromarray(shape[..., :3]).quantize(2)
    clear.save(cat / "4.png", transparency=clear.getpixel((0, 0)))
    images = ImageFolder(root, image_size=16).load("train").images.numpy()
    for image in images[:3]:
        assert (image == (deep >> 8)[..., None]).all() and len(np.unique(image)) == 256
    for image in images[3:5]:
        assert image[0, 0].tolist() == [255] * 3 and image[5, 5].tolist() == [0] * 3
        assert abs(int(image[9, 5, 0]) - 127) <= 1
    assert images[5].min() == 255


@pytest.mark.parametrize(("kind", "words"), [(np.float32, "floating-point"), (np.int32, "32-bit")])
def test_pixels_without_a_range_are_refused_by_name(tmp_path, kind, words):
    root = write_tree(tmp_path / "set")
    Image.fromarray(np.ones((16, 16), kind)).save(root / "train" / "cat" / "0.tif")
    with pytest.raises(UserError, match=rf"cat/0\.tif: cannot be decoded \(its pixels are {words} numbers"):
        ImageFolder(root, image_size=16).load("train")


def test_what_lies_beside_the_images_is_named(tmp_path, capsys):
    root = write_tree(tmp_path / "set")
    ImageFolder(root, image_size=16).check()
    assert capsys.readouterr().err == ""
    (root / "train" / "notes.txt").touch()
    (root / "train" / "cat" / "movie.gif").touch()
    (root / "train" / "cat" / "more").mkdir()
    ImageFolder(root, image_size=16).check()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{root}: 3 files and folders beside the images (.jpg, " in said
    assert said.endswith(f"are left out, first {root}/train/notes.txt\n")


def test_names_may_be_of_any_bytes(tmp_path):
    write_tree(tmp_path / "plain")
    source = ImageFolder(tmp_path / "plain", image_size=8)
    wanted = source.load("train").images.clone()
    other = tmp_path / os.fsdecode(b"other\xff")
    shutil.copytree(tmp_path / "plain", other, ignore=shutil.ignore_patterns(".relinearize"))
    for path in list(other.glob("*/dog/*")):
        path.rename(path.with_name(os.fsdecode(b"\xfc") + path.name))
    source = ImageFolder(other, image_size=8)
    assert source.load("train").images.equal(wanted) and len(source.fingerprint()) == 64


def test_an_uncompressed_file_replaced_by_another_of_its_size_is_another_set(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "set")
    file = root / "train" / "cat" / "0.bmp"
    Image.new("RGB", (16, 16), "red").save(file)
    before, images = (
        ImageFolder(root, image_size=16).fingerprint(),
        ImageFolder(root, image_size=16).load("train").images,
    )
    length = file.stat().st_size
    Image.new("RGB", (16, 16), "blue").save(file)
    os.utime(file, ns=(0, 0))
    again = ImageFolder(root, image_size=16)
    read = []
    monkeypatch.setattr(image_folder, "file_digest", lambda path: read.append(path) or file_digest(path))
    assert file.stat().st_size == length and again.fingerprint() != before
    assert ImageFolder(root, image_size=16).fingerprint() == again.fingerprint() and read == [file], "read once"
    assert not again.load("train").images.equal(images)


def test_resized_and_cropped_to_the_centre(tmp_path):
    root = write_tree(tmp_path / "set")
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(root / "train" / "cat" / "0.png")
    images = ImageFolder(root, image_size=10).load("train").images
    assert images[0, :, 1:-1].unique().tolist() == [200]


def test_image_folder_prefers_test_and_has_its_classes(tmp_path):
    root = write_tree(tmp_path / "set", classes=("b", "a", "c"), test="test")
    source = ImageFolder(str(root), image_size=8)
    assert source.class_names == ["a", "b", "c"] and source.classes == 3
    assert len(source.load("test")) == 9 and source.load("train").labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    sorted_here = shutil.copytree(root, tmp_path / "flat")
    (sorted_here / "test").rename(sorted_here / "val")
    (sorted_here / "test").mkdir()  # without labels, as ImageNet has it
    (sorted_here / "test" / "a.png").write_bytes(b"")
    assert ImageFolder(str(sorted_here), image_size=8).load("test").labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    moved = shutil.move(root, tmp_path / "elsewhere")
    assert ImageFolder(moved, image_size=8).fingerprint() == source.fingerprint()
    assert ImageFolder(moved, image_size=9).fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "train"), "train: no such folder"),
        (lambda root: shutil.rmtree(root / "val"), "test: no such folder, and no val/ either"),
        (lambda root: shutil.rmtree(root / "train" / "dog"), r"train: 1 class folder\(s\), a classifier needs"),
        (lambda root: [file.unlink() for file in root.glob("val/*/*")], "test split: holds no images"),
        (lambda root: [file.unlink() for file in root.glob("train/*/*")], "train split: holds no images"),
        (lambda root: [file.unlink() for file in root.glob("train/dog/*")], "class dog has no training images"),
        (lambda root: (root / "val" / "dog").rename(root / "val" / "dgo"), "dgo: this class has no folder under"),
    ],
)
def test_bad_trees_are_named_before_training(tmp_path, damage, message):
    root = write_tree(tmp_path / "set")
    damage(root)
    with pytest.raises(UserError, match=message):
        ImageFolder(root, image_size=8).check()


@pytest.mark.parametrize("image_size", [0, -1, 3.5, None, "64px", True])
def test_image_size_must_be_pixels(image_size):
    with pytest.raises(UserError, match=r"dataset\.image_size="):
        ImageFolder("anywhere", image_size=image_size)


def test_tiny_imagenet_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"tiny-imagenet-200: no such folder; .*dataset.root.*dataset.download=true"):
        TinyImageNet(tmp_path).check()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tiny: shutil.rmtree(tiny / "train" / "n00000003"), "199 class folders, expected 200"),
        (lambda tiny: shutil.rmtree(tiny / "train" / "n00000003" / "images"), "n00000003 has no training images"),
        (lambda tiny: shutil.rmtree(tiny / "train"), "train: cannot be read"),
        (lambda tiny: shutil.rmtree(tiny / "val"), "val: cannot be read"),
        (lambda tiny: (tiny / "val" / "val_annotations.txt").unlink(), "val_annotations.txt: cannot be read"),
        (lambda tiny: (tiny / "val" / "val_annotations.txt").write_text(""), "test split: holds no images"),
        (lambda tiny: (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn9\n"), "line 1: 'n9' is none"),
        (lambda tiny: (tiny / "val" / "images" / "val_5.JPEG").unlink(), "val_5.JPEG: missing, but listed"),
    ],
)
def test_bad_tiny_imagenet_is_named_before_training(tiny, damage, message):
    damage(tiny / "tiny-imagenet-200")
    with pytest.raises(UserError, match=message):
        TinyImageNet(tiny).check()

"""CIFAR files: layout, checksums, damage, and pickles that want to do more than hold arrays."""

import hashlib
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
from fake_sets import CIFAR10_FILES, write_cifar10, write_cifar100
from torchvision import datasets

from relinearize.data.cifar import CIFAR10, CIFAR100, load_array_pickle
from relinearize.errors import UserError


def test_reads_cifar10_in_file_order_and_channels_last(tmp_path):
    folder = write_cifar10(tmp_path)
    source = CIFAR10(tmp_path, verify=False)
    train, test = source.load("train"), source.load("test")
    assert train.images.shape == (100, 32, 32, 3) and test.images.shape == (20, 32, 32, 3)
    third = pickle.loads((folder / "data_batch_3").read_bytes())
    assert np.array_equal(train.images[41].permute(2, 0, 1).reshape(-1).numpy(), third["data"][1])
    assert train.labels[40:60].tolist() == third["labels"]
    assert train.class_names[9] == "class9" and (source.classes, source.channels, source.image_size) == (10, 3, 32)


def test_reads_cifar100_fine_labels_and_keys_of_bytes(tmp_path):
    write_cifar100(tmp_path)
    train = CIFAR100(tmp_path, verify=False).load("train")
    assert train.images.shape == (200, 32, 32, 3) and train.labels[199] == 99 and len(train.class_names) == 100


def test_fingerprint_follows_the_content_not_the_place(tmp_path):
    write_cifar10(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = CIFAR10(tmp_path / "a", verify=False).fingerprint()
    assert first == CIFAR10(tmp_path / "b", verify=False).fingerprint()
    file = tmp_path / "b" / "cifar-10-batches-py" / "data_batch_4"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert first != CIFAR10(tmp_path / "b", verify=False).fingerprint()


def test_missing_folder_names_both_ways_out(tmp_path):
    with pytest.raises(UserError, match=r"cifar-10-batches-py: no such folder; .*dataset.root.*dataset.download=true"):
        CIFAR10(tmp_path).check()


def test_missing_file_is_named(tmp_path):
    (write_cifar10(tmp_path) / "data_batch_2").unlink()
    with pytest.raises(UserError, match="data_batch_2: missing"):
        CIFAR10(tmp_path, verify=False).check()


def test_wrong_checksum_names_the_file_and_the_switch(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(UserError, match=r"data_batch_1: md5 .*dataset.verify=false accepts copies that differ"):
        CIFAR10(tmp_path).check()
    CIFAR10(tmp_path, verify=False).check()


def test_right_checksums_are_accepted(tmp_path, monkeypatch):
    folder = write_cifar10(tmp_path)
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [(file, md5[file]) for file in CIFAR10_FILES[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [(file, md5[file]) for file in CIFAR10_FILES[5:]])
    meta = {**datasets.CIFAR10.meta, "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    assert len(CIFAR10(tmp_path).load("test")) == 20


def test_files_and_checksums_are_the_official_ones():
    assert set(CIFAR10().checksums) == {*CIFAR10_FILES, "batches.meta"}
    assert CIFAR10().checksums["data_batch_1"] == "c99cafc152244af753f735de768cd75f"
    assert CIFAR100().checksums == {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }
    assert (CIFAR10().path.name, CIFAR100().path.name) == ("cifar-10-batches-py", "cifar-100-python")


@pytest.mark.parametrize("keep", [0, 1, 10, 0.3, 0.99])
def test_truncated_batch_is_named(tmp_path, keep):
    file = write_cifar10(tmp_path) / "data_batch_5"
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(UserError, match="data_batch_5: truncated or not a CIFAR file"):
        CIFAR10(tmp_path, verify=False).load("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "instead of a dict"),
        ({"labels": [0]}, "`data` is not an array"),
        ({"data": np.zeros((2, 3072), np.int64), "labels": [0, 1]}, "`data` is not an array of uint8"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "N x 3072"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "list of 2 labels"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "`labels` is not a list"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "not a class number"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    (write_cifar10(tmp_path) / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=f"test_batch: .*{message}"):
        CIFAR10(tmp_path, verify=False).load("test")


def test_empty_split_and_foreign_labels(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}))
    with pytest.raises(UserError, match="holds no images"):
        CIFAR10(tmp_path, verify=False).load("test")
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}))
    with pytest.raises(UserError, match="valid are 0 to 9"):
        CIFAR10(tmp_path, verify=False).load("test")


def test_too_few_class_names(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat"]}))
    with pytest.raises(UserError, match=r"batches\.meta: 1 class names .* expected 10"):
        CIFAR10(tmp_path, verify=False).load("train")


class Harmful:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [(os.system, "touch HARMED"), (eval, "open('HARMED', 'w')"), (np.load, "x.npy")])
def test_pickles_execute_nothing(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "harmful"
    file.write_bytes(pickle.dumps({"data": Harmful(*call)}))
    with pytest.raises(UserError, match="is not allowed"):
        load_array_pickle(file)
    assert not (tmp_path / "HARMED").exists()


@pytest.mark.parametrize("array", [np.array([object], dtype=object), np.array(["text"]), np.zeros(2, "u1,i4")])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array):
    file = tmp_path / "objects"
    file.write_bytes(pickle.dumps({"data": array}))
    with pytest.raises(UserError, match="not allowed"):
        load_array_pickle(file)


# A tuple of two of the same, 60 deep: its hash would take 2**60 steps. By hand, as Python could not make the dict.
NESTED = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))


@pytest.mark.parametrize(
    "value", [NESTED + b"K\x01s", b"\x8c\x04data\x8f(" + NESTED + b"\x90s", b"(" + NESTED + b"\x91"]
)
def test_nested_keys_and_sets_end_at_once(tmp_path, value):
    file = tmp_path / "nested"
    file.write_bytes(b"\x80\x04}" + value + b".")
    with pytest.raises(UserError, match="not allowed in an image file"):
        load_array_pickle(file)


def test_nested_labels_end_at_once(tmp_path):
    folder, deep = write_cifar10(tmp_path), []
    for _ in range(60):
        deep = [deep, deep]
    batch = pickle.loads((folder / "data_batch_1").read_bytes())
    batch["labels"] = [deep, *list(batch["labels"])[1:]]
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch))
    with pytest.raises(UserError, match="something that is not a class number"):
        CIFAR10(tmp_path, verify=False).load("train")


@pytest.mark.parametrize("protocol", range(6))
def test_all_pickle_protocols(tmp_path, protocol):
    file = tmp_path / "file"
    for array in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.eye(3)), np.arange(3, dtype=">i4")):
        content = {"data": array, "labels": [np.int64(3), 2], "name": "ä"}
        file.write_bytes(pickle.dumps(content, protocol=protocol))
        found = load_array_pickle(file)
        assert np.array_equal(found["data"], array) and found["labels"] == [3, 2] and found["name"] == "ä"


def test_pickle_as_python_2_wrote_it(tmp_path):
    pixels = bytes(range(256)) * 24
    pickled = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M"
        + struct.pack("<H", 3072)
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tbU\x06labels](K\x03K\x05eu."
    )
    file = tmp_path / "python2"
    file.write_bytes(pickled)
    found = load_array_pickle(file)
    assert found["data"].shape == (2, 3072) and found["data"].tobytes() == pixels and found["labels"] == [3, 5]

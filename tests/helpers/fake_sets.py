"""Small sets in the official layouts, with random pixels."""

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR10_FILES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def write_cifar10(root: Path, per_file: int = 20, protocol: int = 2) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in CIFAR10_FILES:
        content = {
            "data": rng.integers(0, 256, (per_file, 3072), dtype=np.uint8),
            "labels": [i % 10 for i in range(per_file)],
        }
        (folder / file).write_bytes(pickle.dumps(content, protocol=protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}))
    return folder


def write_cifar100(root: Path, count: int = 200) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for file in ("train", "test"):
        fine = [i % 100 for i in range(count)]
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": data, b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine]}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{i}" for i in range(100)]}))
    return folder


def image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_tiny(root: Path, per_class: int = 2, val_sorted: bool = False, classes: int = 200) -> Path:
    folder = root / "tiny-imagenet-200"
    rng = np.random.default_rng(2)
    annotations = []
    for label in range(classes):
        wnid = f"n{label:08d}"
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        for index in range(per_class):
            image(rng, 64, 64).save(images / f"{wnid}_{index}.JPEG")
        name = f"val_{(label * 7) % classes}.JPEG"
        target = folder / "val" / (wnid if val_sorted else "images")
        target.mkdir(parents=True, exist_ok=True)
        image(rng, 64, 64).save(target / name)
        annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    return folder


def write_tree(root: Path, classes: tuple[str, ...] = ("cat", "dog"), test: str = "val", per_class: int = 3) -> Path:
    rng = np.random.default_rng(3)
    for part in ("train", test):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for index in range(per_class):
                image(rng, 20 + index, 24).save(root / part / name / f"{index}.png")
    return root


# ---- sets of torchvision ---------------------------------------------------------------------------------------------


def write_fashion_mnist(root: Path, train: int = 40, test: int = 20) -> Path:
    """Files of MNIST's format: a magic number, the sizes, and bytes."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return folder


def write_svhn(root: Path, count: int = 30) -> None:
    """MATLAB files; the digit zero has the label 10. torchvision compares their checksums."""
    from scipy.io import savemat

    rng = np.random.default_rng(5)
    for part in ("train", "test"):
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
        savemat(root / f"{part}_32x32.mat", {"X": images, "y": labels})


IMAGENETTE = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
              "n03394916", "n03417042", "n03425413", "n03445777", "n03888257")  # fmt: skip


def write_imagenette(root: Path, per_class: int = 2) -> Path:
    folder = root / "imagenette2"
    rng = np.random.default_rng(6)
    for part in ("train", "val"):
        for wnid in IMAGENETTE:
            (folder / part / wnid).mkdir(parents=True)
            for index in range(per_class):
                image(rng, 30 + index, 40).save(folder / part / wnid / f"{wnid}_{index}.JPEG")
    return folder


def write_imagenet(root: Path, classes: int = 4, per_class: int = 6, width: int = 48) -> Path:
    """train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, images of several sizes."""
    rng = np.random.default_rng(7)
    for part in ("train", "val"):
        for label in range(classes):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for index in range(per_class):
                image(rng, width + 4 * index, 40).save(folder / f"{folder.name}_{index}.JPEG")
    return root

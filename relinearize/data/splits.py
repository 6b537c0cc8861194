"""Stratified choices of images that never change: not with the platform, nor with a library's random numbers.

Images are ranked by a hash of their position, so the split of a set is a property of (labels, seed) alone; records of
different machines and years speak of the same held-out images.
"""

from __future__ import annotations

import hashlib

import numpy as np

from relinearize.errors import UserError


def stable_order(count: int, seed: int, purpose: str) -> np.ndarray:
    """int64, a permutation of 0 .. count - 1 that depends on (seed, purpose) only."""
    prefix = hashlib.sha256(f"{purpose}/{seed}/".encode())
    keys = np.empty(count, dtype="S32")
    for index in range(count):
        digest = prefix.copy()
        digest.update(str(index).encode())
        keys[index] = digest.digest()
    return np.argsort(keys, kind="stable")


def allot(sizes: np.ndarray, count: int, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Divide `count` over classes in proportion to their sizes (largest remainders first), within the two bounds."""
    total = int(sizes.sum())
    shares = count * sizes // total
    by_remainder = np.argsort(-(count * sizes % total), kind="stable")
    shares[by_remainder[: count - int(shares.sum())]] += 1
    shares = np.clip(shares, lowest, highest)
    while (missing := count - int(shares.sum())) != 0:
        room = highest - shares if missing > 0 else shares - lowest
        if room.max() <= 0:
            raise ValueError(f"{count} images cannot be divided within the bounds")
        shares[np.argmax(room)] += 1 if missing > 0 else -1
    return shares


def choose(labels: np.ndarray, shares: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Sorted positions of `shares[c]` images of every class c."""
    order = stable_order(len(labels), seed, purpose)
    ranked = labels[order]
    picked = [order[ranked == label][:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(picked))


def choose_subset(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Sorted positions of `count` images, stratified, at least one of every class that occurs (`dataset.subset`)."""
    sizes = np.bincount(labels)
    present = int((sizes > 0).sum())
    if isinstance(count, bool) or not isinstance(count, int) or not present <= count <= len(labels):
        raise UserError(
            f"dataset.subset={count}: must be an integer from {present} (one image a class) "
            f"to {len(labels)} (the training images), or null for all"
        )
    shares = allot(sizes, count, lowest=np.minimum(sizes, 1), highest=sizes)
    return choose(labels, shares, seed, "subset")


def split_holdout(labels: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions (kept for training, held out) of a stratified split; every class keeps a training image.

    fraction: of the images, in [0, 1), rounded to an integer number of images; 0 holds nothing out (`dataset.holdout`).
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise UserError(f"dataset.holdout={fraction}: needs a fraction of the training images in [0, 1)")
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    sizes = np.bincount(labels)
    count = round(len(labels) * fraction)
    most = np.maximum(sizes - 1, 0)
    if not 0 < count <= most.sum():
        raise UserError(
            f"dataset.holdout={fraction}: {count} of {len(labels)} training images would be held out; "
            f"valid is 1 to {most.sum()} images (every class keeps one); a larger dataset.subset has more, "
            "and dataset.holdout=0 needs none"
        )
    shares = allot(sizes, count, lowest=np.zeros_like(sizes), highest=most)
    held_out = choose(labels, shares, seed, "holdout")
    return np.setdiff1d(everything, held_out, assume_unique=True), held_out

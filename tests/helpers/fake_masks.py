"""Mask files beside made-up records, written with numpy; the format's other side is relu/mask.py."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from relinearize.records.run import Record


def fake_mask(record: Record) -> dict[str, np.ndarray]:
    """Random positions, as many at each site as the record says; runs of one search get the same."""
    draw = np.random.default_rng(random.Random(record.stages["search"].key).getrandbits(32))
    mask = {}
    for site in record.sites:
        positions = np.zeros(site.total, np.uint8)
        positions[draw.permutation(site.total)[: site.kept]] = 1
        mask[site.name] = positions.reshape(site.shape)
    return mask


def write_masks(records: Sequence[Record], folder: Path) -> Path:
    """Each record into a folder of its own below `folder`, its mask beside it."""
    for index, record in enumerate(records):
        place = folder / f"run-{index:03d}"
        record.write(place / "record.json")
        save_file(fake_mask(record), place / "mask.safetensors")
    return folder

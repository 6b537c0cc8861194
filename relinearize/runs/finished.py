"""A finished run's folder, opened again: its record, its config and its network with mask and weights."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.weights import match_weights, read_weights
from relinearize.data.source import Source
from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.records.config import read_config
from relinearize.records.run import RECORD_FILE, Record
from relinearize.records.store import CONFIG, MASK, WEIGHTS, check_digest
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import COEFFICIENTS, IDENTITY
from relinearize.relu.sites import site_shapes, to_masked, to_replaced
from relinearize.runs.build import all_relu_network, open_source
from relinearize.targets import plain, target

FILES = (RECORD_FILE, CONFIG, MASK, WEIGHTS)


def has_root(config: DictConfig) -> bool:
    """Whether the images of `config.dataset` lie in a folder that the user can name."""
    source = config.dataset.source
    return "root" in source or "root" in inspect.signature(target(source)).parameters


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, or a sub-folder that holds as much (a narrower network, a batch-norm route)."""

    folder: Path
    record: Record
    config: DictConfig
    root: str | None = None
    trust: bool = False

    @classmethod
    def open(cls, folder: Path | str, root: str | None = None, trust: bool = False) -> "FinishedRun":
        """Read record and config. `root`: where the images lie now; `trust`: see records/config.py.

        UserError names the first missing file.
        """
        folder = Path(folder)
        for file in FILES:
            if not (folder / file).is_file():
                raise UserError(f"run={folder} is no finished run: {file} is missing there")
        record = Record.read(folder / RECORD_FILE)
        config = read_config(folder / CONFIG, trust)
        if not trust:
            check_digest(folder / CONFIG, (record.files or {}).get(CONFIG), "trust=true takes it as it is")
        if root is not None:
            config.dataset.root = root
            if has_root(config):
                config.dataset.source.root = root
        if config.backbone.get("weights") is not None:
            config.backbone.weights = None  # where the training started; the file may be gone
        return cls(folder, record, config, root, trust)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the network's answers and its test, wherever the folder lies."""
        config = self.config
        return {
            "weights": file_digest(self.folder / WEIGHTS),
            "mask": file_digest(self.folder / MASK),
            "backbone": plain(config.backbone),
            "normalisation": [list(config.dataset[key]) for key in ("mean", "std")],
            "images": self.record.dataset.fingerprint,
        }

    def source(self) -> Source:
        """The images that the run was tested on. UserError if those there now are others."""
        source = open_source(self.config)
        if source.fingerprint() != self.record.dataset.fingerprint:
            place, hint = "of dataset.source", ""
            if has_root(self.config):
                place = f"at dataset.root={self.config.dataset.get('root')}"
                hint = "; give root=FOLDER, where these lie"
            name, title = self.record.name, self.record.dataset.title
            raise UserError(f"the images {place} are not those of {name} ({title}){hint}")
        return source

    def network(self) -> PixelInput:
        """The network as it was tested, in eval mode on the CPU.

        UserError unless mask, weights and record fit each other.
        """
        record, backbone = self.record, self.config.backbone
        for file in (MASK, WEIGHTS):
            check_digest(self.folder / file, (record.files or {}).get(file), "run it again, with repair=true")
        network = all_relu_network(self.config, record.dataset, student=True)
        mask, metadata = Mask.from_file(self.folder / MASK)
        input_size = (record.dataset.channels, record.dataset.image_size, record.dataset.image_size)
        metadata.check(backbone.name, backbone.get("convention", "all"), input_size)
        if mask.count != record.budget.met:
            raise UserError(
                f"{self.folder / MASK} keeps {mask.count:,} ReLUs, but the record says {record.budget.met:,}"
            )
        mask.check_fits(site_shapes(network.network))
        to_masked(network.network, mask)
        path = self.folder / WEIGHTS
        weights = read_weights(path)
        if (record.replacement != IDENTITY) != any(name.endswith(f".{COEFFICIENTS}") for name in weights):
            raise UserError(f"{path} does not have at removed positions what the record says: {record.replacement}")
        to_replaced(network.network, weights)
        network.network.load_state_dict(match_weights(network.network, weights, path))
        return network.eval()

    def parts(self) -> "list[FinishedRun]":
        """The sub-folders that are finished runs of their own: widths and batch-norm routes, at any depth."""
        found = []
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            if folder.name.startswith(("width-", "route-")) and (folder / RECORD_FILE).is_file():
                part = FinishedRun.open(folder, self.root, self.trust)
                found += [part, *part.parts()]
        return found

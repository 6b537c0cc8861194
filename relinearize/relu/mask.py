"""The mask of a network: which ReLUs are kept, and its file.

A mask file is safetensors (uint8, 1 = kept, one tensor per site) with one JSON string under the key `relinearize` in
its header: portable, and reading it executes nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from relinearize.errors import UserError
from relinearize.files import check_readable, write_bytes
from relinearize.relu.activation import MaskedReLU
from relinearize.relu.probe import listed
from relinearize.relu.sites import named_sites, site_shapes

HEADER_KEY = "relinearize"
FILE_VERSION = 1


@dataclass
class MaskMetadata:
    """What a mask belongs to and how it came about. `input_size` is (C, H, W) without batch."""

    backbone: str
    convention: str
    input_size: tuple[int, ...]
    asked: int
    met: int
    key: str
    replacement: str = "identity"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.input_size = tuple(int(size) for size in self.input_size)
        for entry in fields(self):
            if entry.type in (str, int) and type(getattr(self, entry.name)) is not entry.type:
                kind = "a text" if entry.type is str else "an integer"
                raise TypeError(f"metadata {entry.name} is not {kind}")

    def check(
        self, backbone: str | None = None, convention: str | None = None, input_size: tuple[int, ...] | None = None
    ) -> None:
        """Raise UserError, saying both sides, where the mask was made for something else. None is not compared."""
        size = None if input_size is None else tuple(int(size) for size in input_size)
        for name, value in {"backbone": backbone, "convention": convention, "input_size": size}.items():
            ours = getattr(self, name)
            if value is not None and value != ours:
                raise UserError(f"the mask was made for {name}={_plain(ours)}, but {name}={_plain(value)} is needed")


class Mask(Mapping[str, Tensor]):
    """Site name -> bool tensor of the site's shape, on the CPU, in forward order; true = ReLU kept."""

    def __init__(self, positions: Mapping[str, Tensor]) -> None:
        """Copies `positions`; raises UserError for anything that is not a bool tensor."""
        self._positions: dict[str, Tensor] = {}
        for name, kept in positions.items():
            if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
                found = f"a tensor of {kept.dtype}" if isinstance(kept, Tensor) else f"a {type(kept).__name__}"
                raise UserError(f"mask of site {name} is {found}; a mask holds bool tensors only")
            self._positions[str(name)] = kept.detach().to("cpu", copy=True).contiguous()

    def __getitem__(self, name: str) -> Tensor:
        return self._positions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(kept, other[name]) for name, kept in self.items())

    __hash__ = None

    def __repr__(self) -> str:
        return f"Mask({self.count:,} of {self.total:,} ReLUs kept at {len(self)} sites)"

    @property
    def count(self) -> int:
        """Positions kept."""
        return sum(self.counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Positions kept at each site."""
        return {name: int(kept.sum()) for name, kept in self.items()}

    @property
    def total(self) -> int:
        """All positions, kept or not."""
        return sum(kept.numel() for kept in self.values())

    @property
    def unit(self) -> str:
        """What is removed: whole "layers" (sites), whole "channels", "positions", or "none"."""
        mixed = [kept for kept in self.values() if kept.any() != kept.all()]
        if not mixed:
            return "none" if self.count == self.total else "layers"
        channels = [kept.flatten(1) for kept in mixed if kept.dim() > 1]
        whole = len(channels) == len(mixed) and all(bool((part.any(1) == part.all(1)).all()) for part in channels)
        return "channels" if whole else "positions"

    @classmethod
    def full(cls, network: nn.Module) -> "Mask":
        """Every ReLU of `network` kept."""
        return cls({name: torch.ones(shape, dtype=torch.bool) for name, shape in site_shapes(network).items()})

    @classmethod
    def of(cls, network: nn.Module) -> "Mask":
        """The mask that `network` carries now. Raises UserError where a site has slopes."""
        sites = named_sites(network)
        for name, site in sites.items():
            if not isinstance(site, MaskedReLU):
                raise UserError(f"site {name} has slopes, so no ReLU is kept or removed yet; call to_masked first")
        return cls({name: site.mask for name, site in sites.items()})

    def check_fits(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise UserError, saying both sides, unless names and shapes of the sites are those of this mask."""
        missing = [name for name in shapes if name not in self]
        unknown = [name for name in self if name not in shapes]
        if missing or unknown:
            raise UserError(
                f"the mask does not fit the network: the network's sites [{listed(missing, 4)}] are not in the mask, "
                f"the mask's sites [{listed(unknown, 4)}] are not in the network"
            )
        for name, shape in shapes.items():
            if tuple(self[name].shape) != tuple(shape):
                raise UserError(
                    f"the mask does not fit the network: site {name} is {_plain(self[name].shape)} in the mask "
                    f"and {_plain(shape)} in the network"
                )

    def apply(self, network: nn.Module) -> None:
        """Copy into the masks of `network`, in place. Raises UserError where names, shapes or kinds differ."""
        sites = named_sites(network)
        self.check_fits(site_shapes(network))
        for name, site in sites.items():
            if not isinstance(site, MaskedReLU):
                raise UserError(f"site {name} has slopes and takes no mask; call to_masked(network, mask)")
        for name, site in sites.items():
            site.mask.copy_(self[name])

    def to_file(self, path: str | os.PathLike[str], metadata: MaskMetadata) -> None:
        """Write atomically: readers see the old file or the new one, never a part of it."""
        if metadata.met != self.count:
            raise ValueError(f"metadata says met={metadata.met}, but the mask keeps {self.count}")
        header = {"version": FILE_VERSION, "sites": list(self), "metadata": asdict(metadata)}
        content = save(
            {name: kept.to(torch.uint8) for name, kept in self.items()}, metadata={HEADER_KEY: json.dumps(header)}
        )
        write_bytes(Path(path), content)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> tuple["Mask", MaskMetadata]:
        """Read a mask file. Raises UserError naming `path` where it is missing, damaged or something else."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"mask file {path} does not exist")
        check_readable(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(HEADER_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UserError(f"mask file {path} is damaged or no safetensors file ({error})") from error
        if header is None:
            raise UserError(f"{path} is a safetensors file, but not a mask written by relinearize (no mask header)")
        try:
            content = json.loads(header)
            version, names, metadata = content["version"], content["sites"], MaskMetadata(**content["metadata"])
            if version != FILE_VERSION:
                raise UserError(f"mask file {path} has version {version}; this program reads version {FILE_VERSION}")
            if sorted(names) != sorted(tensors):
                raise ValueError("its list of sites and its tensors differ")
            for name, tensor in tensors.items():
                if tensor.dtype not in (torch.uint8, torch.bool) or (tensor.numel() and int(tensor.max()) > 1):
                    raise ValueError(f"site {name} holds something else than zeros and ones")
            mask = cls({name: tensors[name].bool() for name in names})
            if metadata.met != mask.count:
                raise ValueError(f"it says met={metadata.met}, but keeps {mask.count}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"mask file {path} is damaged: {error}") from error
        return mask, metadata


def relu_counts(network: nn.Module) -> dict[str, int]:
    """ReLUs kept now at each site of a linearized `network`, in forward order. Raises UserError as `Mask.of` does."""
    return Mask.of(network).counts


def relu_total(network: nn.Module) -> int:
    """ReLUs kept now in the whole network."""
    return Mask.of(network).count


# For people with their own training loop: save_mask(mask, path, metadata) and load_mask(path).
save_mask, load_mask = Mask.to_file, Mask.from_file


def _plain(value: object) -> str:
    return "x".join(str(size) for size in value) if isinstance(value, tuple) else str(value)

"""No search: the mask of a file, of this program or of SNL's released code, to fine-tune or evaluate under it."""

from pathlib import Path

from torch import Tensor

from relinearize.backbones.weights import read_weights
from relinearize.errors import UserError
from relinearize.relu.mask import Mask

KEPT_ABOVE = 1e-2  # a slope below it counts as linear: the threshold of SNL's released code
SLOPES = ("alpha", "mask")  # words in the names of the tensors that are masks or slopes in other programs' files


class GivenMask:
    """The mask that `file` holds. The run's budget is what it keeps. Settings: conf/method/search/given.yaml."""

    def __init__(self, file: str | None = None) -> None:
        if file is None:
            raise UserError("method.search.file is not given; it names a mask.safetensors or a checkpoint with slopes")
        self.file = Path(str(file))
        if not self.file.is_file():
            raise UserError(f"method.search.file={file} is no file; give a mask.safetensors or a checkpoint")

    def budget(self, shapes: dict[str, tuple[int, ...]]) -> int:
        """The ReLUs that the mask keeps."""
        return self.mask(shapes).count

    def scores(self, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
        """Site name -> 1 where the ReLU is kept, 0 elsewhere."""
        return {name: kept.float() for name, kept in self.mask(shapes).items()}

    def mask(self, shapes: dict[str, tuple[int, ...]]) -> Mask:
        """The mask of a network with sites of these shapes. UserError where the file is no mask of such a network."""
        try:
            if self.file.suffix != ".safetensors":
                return self.released(shapes)
            mask, _ = Mask.from_file(self.file)
            mask.check_fits(shapes)
        except UserError as error:
            raise UserError(f"method.search.file: {error}") from error
        return Mask({name: mask[name] for name in shapes})

    def released(self, shapes: dict[str, tuple[int, ...]]) -> Mask:
        """The mask in a checkpoint of another program: in forward order a tensor of each site's shape, or 1 x that."""
        tensors = read_weights(self.file)
        found = {name: value for name, value in tensors.items() if any(word in name.lower() for word in SLOPES)}
        sizes = [tuple(value.shape) for value in found.values()]
        fits = [size in (shape, (1, *shape)) for size, shape in zip(sizes, map(tuple, shapes.values()), strict=False)]
        if len(found) != len(shapes) or not all(fits):
            given = _first(dict(zip(found, sizes, strict=True)))
            raise UserError(
                f"{self.file} has {len(found)} tensors named ...alpha... or ...mask...{given}; "
                f"the network has {len(shapes)} sites{_first(shapes)}"
            )
        if broken := next((name for name, value in found.items() if not value.isfinite().all()), None):
            raise UserError(f"{self.file}: {broken} has values that are not finite")
        sites = zip(shapes.items(), found.values(), strict=True)
        return Mask({name: value.reshape(shape) > KEPT_ABOVE for (name, shape), value in sites})


def _first(shapes: dict[str, tuple[int, ...]]) -> str:
    """The first of them, for messages."""
    return next((f", first {name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()), "")

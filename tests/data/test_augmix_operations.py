"""AugMix's operations give the bytes that Pillow gives."""

import pytest
import torch
from augmix_reference import KINDS, NAMES, from_pillow, pillow, random_images, to_pillow

from relinearize.data.augmix_operations import OPERATIONS, parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", range(len(OPERATIONS)), ids=NAMES)
def test_operations_give_pillows_bytes(position, kind):
    images = KINDS[kind]()
    count, height, width, _channels = images.shape
    generator = torch.Generator().manual_seed(position)
    levels = 10 * torch.rand(count, dtype=torch.float64, generator=generator)
    levels[::2] *= 0.3  # half of them as weak as AugMix's at severity 3
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    values = parameters(torch.full((count,), position), levels, signs, height, width)
    planes = images.permute(0, 3, 1, 2).contiguous()
    kept = planes.clone()
    ours = OPERATIONS[position](planes, values)
    assert torch.equal(planes, kept) and ours.dtype == torch.uint8
    theirs = [
        from_pillow(pillow(NAMES[position], to_pillow(image), value))
        for image, value in zip(images, values.tolist(), strict=True)
    ]
    assert torch.equal(ours.permute(0, 2, 3, 1), torch.stack(theirs))


@pytest.mark.parametrize("degrees", [0, 1, -8, 30, -30])
def test_turns_of_each_angle(degrees):
    images = random_images(2, 32, 32, 3)
    ours = OPERATIONS[NAMES.index("rotate")](images.permute(0, 3, 1, 2).contiguous(), torch.full((2,), float(degrees)))
    theirs = [from_pillow(pillow("rotate", to_pillow(image), degrees)) for image in images]
    assert torch.equal(ours.permute(0, 2, 3, 1), torch.stack(theirs))


def test_parameters_by_hand():
    def at(name: str, level: float, sign: int = 1, height: int = 32, width: int = 32) -> float:
        tensors = torch.tensor([NAMES.index(name)]), torch.tensor([level], dtype=torch.float64), torch.tensor([sign])
        return parameters(*tensors, height, width).item()

    assert at("posterize", 2.4) == 4 and at("posterize", 2.5) == 3 and at("posterize", 10) == 0
    assert at("rotate", 2.99) == 8 and at("rotate", 2.99, -1) == -8 and at("rotate", 0.1) == 0
    assert at("solarize", 2.99) == 180 and at("solarize", 2.99, -1) == 180 and at("solarize", 0.1) == 254
    assert at("shear_x", 2) == pytest.approx(0.06) and at("shear_y", 2, -1) == pytest.approx(-0.06)
    assert at("translate_x", 2.99) == 3 and at("translate_x", 2.99, -1, width=64) == -6
    assert at("translate_y", 2.99, width=64) == 3 and at("translate_y", 2.99, height=64) == 6


def test_no_operation_is_a_test_corruption():
    colours = {"autocontrast", "equalize", "posterize", "solarize"}
    assert set(NAMES) == colours | {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"} and len(NAMES) == 9
    overlapping = "brightness contrast color colour saturate sharpness blur noise fog frost snow jpeg pixelate elastic"
    assert not any(word in name.replace("autocontrast", "") for name in NAMES for word in overlapping.split())

"""Photographs of frost, from the user: their licence does not let us ship them, and nothing replaces them."""

import hashlib
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from relinearize.errors import UserError, check_path

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
PUBLISHED = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


class Photographs:
    """The photographs in a folder.

    Of the published six (frost1.png ... frost6.jpg) only five are used, as by the published code, which never draws the
    last; of any others, all. Raises UserError if there are none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_path("corruptions.frost_images", folder)
        if not self.folder.is_dir():
            raise UserError(
                f"corruptions.frost_images={folder}: no such folder; give one of photographs of frost, or null"
            )
        found = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in ENDINGS)
        published = [path for path in found if path.name in PUBLISHED]
        self.files = published if len(published) == len(PUBLISHED) else found
        if not self.files:
            raise UserError(f"corruptions.frost_images={folder}: holds no photograph ({', '.join(ENDINGS)})")
        self._textures: dict[tuple, list[np.ndarray]] = {}

    @cached_property
    def sha256(self) -> str:
        """Over the bytes of the files that are used."""
        content = hashlib.sha256()
        for path in self.files:
            content.update(hashlib.sha256(path.read_bytes()).digest())
        return content.hexdigest()

    def textures(self, scale: float, height: int, width: int, channels: int) -> list[np.ndarray]:
        """All photographs, uint8 H' x W' x channels, scaled; UserError if crops of height x width do not fit in."""
        key = scale, height, width, channels
        if key not in self._textures:
            self._textures[key] = [self._texture(path, *key) for path in self.files]
        return self._textures[key]

    def _texture(self, path: Path, scale: float, height: int, width: int, channels: int) -> np.ndarray:
        try:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        except (cv2.error, OSError):
            image = None
        if image is None:
            raise UserError(f"{path}: cannot be decoded; replace or remove this photograph")
        rows, columns = image.shape[:2]
        scaled = cv2.resize(image, (0, 0), fx=scale, fy=scale)
        if scaled.shape[0] <= height or scaled.shape[1] <= width:
            raise UserError(
                f"{path}: {columns} x {rows} pixels are too few; made {scale} times as large, as published, it must "
                f"exceed {width} x {height}"
            )
        if channels == 1:
            return cv2.cvtColor(scaled, cv2.COLOR_BGR2GRAY)[..., None]
        return cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB)

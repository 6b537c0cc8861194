"""Accuracy of a subject on corrupted test images, in pieces: one corruption at one severity each."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from relinearize.corruptions.constants import CORRUPTIONS, SEVERITIES
from relinearize.corruptions.metrics import MEAN_ERROR, TINY_RESNET18, corruption_score
from relinearize.corruptions.sources import CorruptedImages
from relinearize.data.source import ImageSet
from relinearize.evaluation.pieces import Part, Piece, Result, flags_to_text, share
from relinearize.evaluation.subject import Subject
from relinearize.records.robustness import CorruptionsRecord
from relinearize.records.store import content_key
from relinearize.targets import build


def open_corruptions(settings: dict[str, Any], images: ImageSet) -> CorruptedImages:
    """The source of conf/corruptions for the clean test set `images`. UserError where it cannot be."""
    return build(settings)(images.images.numpy(), images.labels.numpy(), images.class_names)


class CorruptedAccuracy:
    """Accuracies on the first `count` images of `source` (None: on all), each corruption and severity."""

    def __init__(self, subject: Subject, source: CorruptedImages, count: int | None, batch_size: int) -> None:
        self.subject, self.source, self.batch_size = subject, source, batch_size
        self.rows = subject.rows(count)
        self.description = source.describe()
        self.cells = [(name, severity) for name in source.names for severity in SEVERITIES]
        which = subject.which(count)
        pieces = [
            Piece(
                f"corruption {name}",
                {
                    "kind": "corruption",
                    "corruption": name,
                    "severity": severity,
                    "source": self.of_one(name),
                    "rows": which,
                    "n": len(self.rows),
                },
                len(self.rows),
                lambda name=name, severity=severity: self.compute(name, severity),
            )
            for name, severity in self.cells
        ]
        self.part = Part(pieces, self.record)

    def of_one(self, name: str) -> dict[str, Any]:
        """What of the source's description can change the images of one corruption."""
        content = {key: value for key, value in self.description.items() if key not in ("names", "left_out")}
        if name != "frost" and "frost_images_sha256" in content:
            content["frost_images_sha256"] = None  # as where there are none: frost added later costs frost only
        if isinstance(digests := content.get("sha256"), dict):
            content["sha256"] = digests[name]
        return content

    def compute(self, name: str, severity: int) -> Result:
        start = time.perf_counter()
        flags = []
        for rows in self.rows.split(self.batch_size):
            images, labels = self.source.images(name, severity, rows.numpy())
            pixels, labels = self.subject.pixels(torch.from_numpy(images), torch.from_numpy(labels))
            flags.append(self.subject.right(pixels, labels))
        return {"right": flags_to_text(torch.cat(flags)), "seconds": time.perf_counter() - start}

    def record(self, results: Sequence[Result]) -> CorruptionsRecord:
        """`results`: of all pieces, in their order."""
        percent = {cell: share([result])[0] for cell, result in zip(self.cells, results, strict=True)}
        by_name = {name: [percent[name, severity] for severity in SEVERITIES] for name in self.source.names}
        anchor = TINY_RESNET18 if self.description.get("layout") == "folders" else MEAN_ERROR
        npa, mce = corruption_score({cell: value / 100 for cell, value in percent.items()}, anchor)
        digests = self.description.get("sha256")
        return CorruptionsRecord(
            source=self.source.source if digests is None else f"{self.source.source} sha256 {content_key(digests)}",
            constants=self.description.get("constants") or ("tiny" if anchor == TINY_RESNET18 else "cifar"),
            seed=self.description.get("seed") or 0,
            n=len(self.rows),
            left_out=[name for name in CORRUPTIONS if name not in by_name],
            accuracy={name: values for name, values in by_name.items() if name in CORRUPTIONS},
            extra={name: values for name, values in by_name.items() if name not in CORRUPTIONS},
            npa=100 * npa,
            mce=100 * mce,
            mce_anchor=anchor,
        )

"""Accuracy of a subject on corrupted test images, in pieces: one corruption at one severity each."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from relinearize.corruptions.constants import CORRUPTIONS, SEVERITIES
from relinearize.corruptions.metrics import MEAN_ERROR, TINY_RESNET18, corruption_score
from relinearize.corruptions.sources import CorruptedImages
from relinearize.evaluation.pieces import Part, Piece, Result, flags_to_text, share
from relinearize.evaluation.subject import Subject
from relinearize.records.robustness import CorruptionsRecord
from relinearize.records.store import content_key

READ_TOGETHER = 5000  # images at a time: a cached set is checked whenever it is read


def corrupted_part(subject: Subject, source: CorruptedImages, count: int | None, batch_size: int) -> Part:
    """Accuracies on the first `count` images of `source` (None: on all), each corruption and severity."""
    rows, described = subject.rows(count), source.describe()
    cells = [(name, severity) for name in source.names for severity in SEVERITIES]

    def summary(results: Sequence[Result]) -> CorruptionsRecord:
        percent = {cell: share([result])[0] for cell, result in zip(cells, results, strict=True)}
        by_name = {name: [percent[name, severity] for severity in SEVERITIES] for name in source.names}
        anchor = TINY_RESNET18 if described.get("layout") == "folders" else MEAN_ERROR
        npa, mce = corruption_score({cell: value / 100 for cell, value in percent.items()}, anchor)
        digests, frost = described.get("sha256"), described.get("frost_images_sha256")
        content = f" sha256 {content_key(digests)}" if digests else f" with frost sha256 {frost}" if frost else ""
        return CorruptionsRecord(
            source=source.source + content,
            constants=described.get("constants") or ("tiny" if anchor == TINY_RESNET18 else "cifar"),
            seed=described.get("seed") or 0,
            n=len(rows),
            left_out=[name for name in CORRUPTIONS if name not in by_name],
            accuracy={name: values for name, values in by_name.items() if name in CORRUPTIONS},
            extra={name: values for name, values in by_name.items() if name not in CORRUPTIONS},
            npa=100 * npa,
            mce=100 * mce,
            mce_anchor=anchor,
        )

    pieces = []
    for name, severity in cells:
        what = {"kind": "corruption", "corruption": name, "severity": severity, "source": source_of(described, name)}
        what |= {"rows": subject.which(count), "n": len(rows)}
        compute = partial(corrupted, subject, source, name, severity, rows, batch_size)
        pieces.append(Piece(f"corruption {name}", what, len(rows), compute))
    return Part(pieces, summary)


def source_of(described: dict[str, Any], name: str) -> dict[str, Any]:
    """What of a source's description can change the images of one corruption."""
    content = {key: value for key, value in described.items() if key not in ("names", "left_out")}
    if name != "frost" and "frost_images_sha256" in content:
        content["frost_images_sha256"] = None  # as where there are none: frost added later costs frost only
    if isinstance(digests := content.get("sha256"), dict):
        content["sha256"] = digests[name]
    return content


def corrupted(
    subject: Subject, source: CorruptedImages, name: str, severity: int, rows: torch.Tensor, batch_size: int
) -> Result:
    flags = []
    for chosen in rows.split(batch_size * max(1, READ_TOGETHER // batch_size)):
        images, labels = map(torch.from_numpy, source.images(name, severity, chosen.numpy()))
        batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        flags += [subject.correct(*subject.pixels(*batch)) for batch in batches]
    return {"right": flags_to_text(torch.cat(flags))}

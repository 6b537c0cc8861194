"""Common corruptions of images (Hendrycks and Dietterich, 2019): the published files, or generated alike."""

from relinearize.corruptions.constants import CORRUPTIONS, EXTRA, SEVERITIES
from relinearize.corruptions.files import CorruptionFiles
from relinearize.corruptions.generated import GeneratedCorruptions
from relinearize.corruptions.generator.generate import generate
from relinearize.corruptions.sources import CorruptedImages

__all__ = [
    "CORRUPTIONS",
    "EXTRA",
    "SEVERITIES",
    "CorruptedImages",
    "CorruptionFiles",
    "GeneratedCorruptions",
    "generate",
]

"""Common corruptions of images (Hendrycks and Dietterich, 2019): the published files, or ours made alike."""

from relinearize.robustness.corruptions.constants import CORRUPTIONS, EXTRA, SEVERITIES
from relinearize.robustness.corruptions.files import CorruptionFiles
from relinearize.robustness.corruptions.generated import GeneratedCorruptions
from relinearize.robustness.corruptions.generator import generate
from relinearize.robustness.corruptions.sources import CorruptedImages

__all__ = [
    "CORRUPTIONS",
    "EXTRA",
    "SEVERITIES",
    "CorruptedImages",
    "CorruptionFiles",
    "GeneratedCorruptions",
    "generate",
]

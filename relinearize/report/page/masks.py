"""What the page's mask section draws from: sums over channels as bytes, single channels as bits, both in base64.

The page stays small: masks come in order of their rank until the room for them is used up.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from relinearize.report.tables.masks import DrawnMask, MaskGroup, SiteMap
from relinearize.report.tables.pareto import Panel

# Characters of base64 in a page. ResNet-18 of width 64, 32 x 32 pixels: 95,000 for a mask's bits, 9,000 for its sums.
ROOM_FOR_SUMS = 1_000_000
ROOM_FOR_BITS = 1_500_000


def mask_data(groups: Sequence[MaskGroup], panels: Sequence[Panel], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """`left_out`: the names of the runs without a mask file; `missing` says how many masks had no room at all."""
    sums = _what_fits(groups, summed, ROOM_FOR_SUMS)
    bits = _what_fits(groups, packed, ROOM_FOR_BITS)
    return {
        "leftOut": list(left_out),
        "groups": [
            {
                "panel": next(index for index, panel in enumerate(panels) if panel is group.panel),
                "network": group.network,
                "sites": [{"name": site.name, "shape": site.shape} for site in group.masks[0].sites],
                "masks": [
                    {
                        "label": mask.label,
                        "asked": mask.asked,
                        "met": mask.met,
                        "seeds": list(dict.fromkeys(record.seed for record in mask.records)),
                        "names": [record.name for record in mask.records],
                        "sums": sums[id(mask)],
                        "bits": bits.get(id(mask)),
                    }
                    for mask in group.masks
                    if id(mask) in sums
                ],
                "missing": sum(id(mask) not in sums for mask in group.masks),
            }
            for group in groups
        ],
    }


def summed(sites: Sequence[SiteMap]) -> str:
    """Channels kept at each position, row by row, site after site; two bytes, the low one first, above 255 channels."""
    return _base64(b"".join(site.kept.astype("<u2" if site.shape[0] > 255 else np.uint8).tobytes() for site in sites))


def packed(sites: Sequence[SiteMap]) -> str:
    """Every position's bit, site after site, each site beginning with a new byte."""
    return _base64(b"".join(site.bits for site in sites))


def _what_fits(groups: Sequence[MaskGroup], text_of: Any, room: int) -> dict[int, str]:
    """id of a mask -> its text; groups take turns, so that the first does not use up the room."""
    fitting: dict[int, str] = {}
    waiting: list[list[DrawnMask]] = [group.ranked() for group in groups]
    for turn in range(max(map(len, waiting), default=0)):
        for ranked in waiting:
            if turn >= len(ranked):
                continue
            text = text_of(ranked[turn].sites)
            if len(text) > room:
                return fitting
            room -= len(text)
            fitting[id(ranked[turn])] = text
    return fitting


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()

"""Colours and markers that the figures and the page share."""

import itertools
from collections.abc import Iterable

# Distinguishable with the common colour-vision deficiencies, on white and on near-black.
_SOUND = ("#2f6fde", "#e07020", "#0f9d76", "#a556c9", "#d33f6a", "#8a7a12", "#1596b4", "#7a5c43")
_PALETTE = (*_SOUND, "#e0a800", "#5f6b7a", "#58b030", "#e68fb8")  # the last ones for ablations only
_KNOWN = {"snl": 0, "random": 1, "senet": 2, "rlnet": 3}

# What stands where a ReLU was removed -> matplotlib marker. The page draws the same shapes.
MARKERS = {"identity": "o", "quadratic": "^", "polynomial": "v", "architecture": "s", "unknown": "X"}
REPLACEMENT_WORDS = {
    "identity": "identity",
    "quadratic": "quadratic",
    "polynomial": "polynomial",
    "architecture": "smaller network",
    "unknown": "replacement not stated",
}
# In brackets after a method's name, where it was published with several replacements.
SHORT_WORDS = {**REPLACEMENT_WORDS, "unknown": "unstated"}


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """One colour per method: the known ones always the same, others in alphabetic order from what is left."""
    methods = sorted(set(methods))
    known = {method: _PALETTE[_KNOWN[method]] for method in methods if method in _KNOWN}
    free = itertools.cycle(colour for colour in _PALETTE if colour not in known.values())
    return {method: known.get(method) or next(free) for method in methods}


# Share of ReLUs kept -> colour, in even steps of the share's square root, which keeps small shares visible. Darker is
# more, at every step, so that it reads in grey; the page mixes the same colours.
SHARE_COLOURS = ("#fdfbe4", "#dcedb9", "#9fd6ba", "#55b3c2", "#2a83b8", "#23539a", "#0d1a4d")
SHARE_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


# Curves that are told apart by what they were measured with, and kinds of lines.
CURVE_COLOURS = _SOUND
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
CURVE_MARKERS = ("o", "^", "v", "s")  # of curves that have colour and kind of line in common; the page has the same

# Parts of a predicted latency, and kinds of operations of a measured inference with what is outside of them all.
PARTS = {
    "computation": {"words": "computation of both parties", "colour": "#2f6fde"},
    "wire": {"words": "bytes / rate", "colour": "#e07020"},
    "rounds": {"words": "messages x RTT/2", "colour": "#0f9d76"},
}
KINDS = {
    "relu": {"words": "ReLUs", "colour": "#d33f6a"},
    "pool": {"words": "max-pools", "colour": "#8250c4"},
    "linear": {"words": "linear layers", "colour": "#2f6fde"},
    "gather": {"words": "gathers of the mask", "colour": "#0f9d76"},
    "other": {"words": "other operations", "colour": "#8a7a12"},
    "outside": {"words": "outside of operations (reading the program, waiting for a core)", "colour": "#c3c8d0"},
}

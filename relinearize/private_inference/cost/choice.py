"""Which presets a record and a report speak of."""

from relinearize.private_inference.cost.presets import Preset, find_presets

# In every record and in pareto.csv: the axis of the papers' tables, and the wide-area network, where rounds and bytes
# count.
RECORDED = ("delphi_compute", "delphi_wan", "cheetah_wan", "semi2k_wan")
# What a report draws unless told otherwise: what `relinearize infer` runs by default, two parties and nothing offline.
USUAL_PROTOCOL = "cheetah"


def recorded_presets() -> list[Preset]:
    """The presets of RECORDED."""
    return [preset for name in RECORDED for preset in find_presets(name, None)]


def one_preset(name: str | None = None, network: str | None = None) -> Preset:
    """The preset that `preset=` (None: Cheetah) and `network=` (None: that of the name, else the WAN) mean.

    UserError for unknown names, and where the two contradict each other.
    """
    return find_presets(name or USUAL_PROTOCOL, network)[-1]

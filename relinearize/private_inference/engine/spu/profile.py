"""Bytes, messages and seconds of every operation of one run, from SPU's log: SPU reports them nowhere else."""

import re
from collections.abc import Iterable

from relinearize.private_inference.engine.job import KINDS, Cost, total

_COMPARED = "pphlo.less"  # in ReLUs and in max-pools
_KIND = {
    _COMPARED: "relu",
    # The comparison's bit times the value, and the products of replacements; `spu.lowering` multiplies nothing else.
    "pphlo.multiply": "relu",
    "pphlo.select": "pool",
    "pphlo.convolution": "linear",
    "pphlo.dot": "linear",
    "pphlo.dot_general": "linear",
    "pphlo.custom_call: spu.gather": "gather",
}
_OPERATION = re.compile(
    r"- (?P<name>pphlo\..+?), executed (?P<calls>\d+) times, duration (?P<seconds>[-+.e\d]+)s, "
    r"send bytes (?P<bytes>\d+) recv bytes \d+, send actions (?P<messages>\d+),"
)
_TOTAL = re.compile(r"Link details: total send bytes (?P<bytes>\d+), recv bytes \d+, send actions (?P<messages>\d+),")


def read_profile(lines: Iterable[str], of_pools: tuple[float, float] = (0, 0)) -> dict[str, Cost]:
    """Kind -> cost, from the log of one run. ValueError unless the operations make up the engine's own total.

    of_pools: the shares of all comparisons, and of their batches, that max-pools make (`layout.pool_shares`). SPU adds
    them up with those of ReLUs; each costs the same bytes, each batch the same messages.
    """
    costs = dict.fromkeys(KINDS, Cost())
    reported = None
    for line in lines:
        if found := _OPERATION.search(line):
            kind = _KIND.get(found["name"], "other")
            cost = Cost(float(found["seconds"]), int(found["bytes"]), int(found["messages"]), int(found["calls"]))
            if found["name"] == _COMPARED:
                comparisons, batches = of_pools
                size, messages = round(cost.bytes * comparisons), round(cost.messages * batches)
                pools = Cost(cost.seconds * comparisons, size, messages, round(cost.calls * batches))
                costs["pool"] += pools
                cost -= pools
            costs[kind] += cost
        elif found := _TOTAL.search(line):
            reported = (int(found["bytes"]), int(found["messages"]))
    sent = total(costs)
    if reported != (sent.bytes, sent.messages):
        raise ValueError(f"operations send {sent.bytes} bytes, the whole run {reported and reported[0]}")
    return costs

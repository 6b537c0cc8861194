"""What each layer of a network cost in a measured inference.

CrypTen counts where it sends, layer by layer. SPU reports each kind of operation alone: what a kind took is shared out
among its layers in proportion to what the cost model predicts for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from relinearize.private_inference.bundle.bundle import Bundle
from relinearize.private_inference.bundle.operations import SITES
from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.presets import Preset, layer_cost, predicted_layers, protocols
from relinearize.private_inference.cost.workload import LINEAR, bundle_layers
from relinearize.private_inference.engine.job import CLIENT, SERVER, Cost, Inferred, total
from relinearize.records.inference import MEASURED, SHARED, LayerCost

Both = tuple[Inferred, Inferred]  # the reports of server and client on one inference

# Kinds of operations -> the bundle's operations that they are part of.
LAYERS_OF = {("relu", "gather"): SITES, ("pool",): ("max_pool",), ("linear",): (*LINEAR, "avg_pool", "global_avg_pool")}


def layer_costs(
    bundle: Bundle, batch: int, protocol: str, network: Network, both: Both
) -> tuple[tuple[LayerCost, ...], str]:
    """(costs that add up to those of the inference; where they come from).

    Seconds are the client's, messages those of the party that sends more.
    """
    client, layers = both[CLIENT], bundle_layers(bundle, batch)
    busier = max((SERVER, CLIENT), key=lambda rank: total(both[rank].costs).messages)

    def together(costs: Sequence[Mapping[str, Cost]]) -> dict[str, Cost]:
        """costs: of each party, by the same names."""
        return {
            name: Cost(spent.seconds, sum(one[name].bytes for one in costs), costs[busier][name].messages)
            for name, spent in costs[CLIENT].items()
        }

    kinds = together([one.costs for one in both])
    if client.layers:
        found, source = together([one.layers for one in both]), MEASURED
    else:
        predicted = predicted_layers(Preset(protocol, protocols()[protocol], network), layers)
        found, source = shared(kinds, predicted), SHARED
    costs = [found[layer.name] for layer in layers[:-1]]
    costs.append(replace(total(kinds), seconds=client.seconds) - sum(costs, Cost()))
    return tuple(map(layer_cost, layers, costs)), source


def shared(kinds: Mapping[str, Cost], predicted: Sequence[LayerCost]) -> dict[str, Cost]:
    """Layer -> its part of what the kinds of operations cost; no part of them gets lost."""
    found = {}
    for names, operations in LAYERS_OF.items():
        layers = [layer for layer in predicted if layer.op in operations]
        spent = total({name: kinds[name] for name in names})
        seconds = _parts(spent.seconds, [layer.seconds for layer in layers])
        sizes = _integer_parts(spent.bytes, [layer.bytes for layer in layers])
        messages = _integer_parts(spent.messages, [layer.messages for layer in layers])
        found |= {layer.name: Cost(*cost) for layer, *cost in zip(layers, seconds, sizes, messages, strict=True)}
    return found


def _parts(whole: float, weights: Sequence[float]) -> list[float]:
    return [whole * weight / (sum(weights) or 1) for weight in weights]


def _integer_parts(whole: int, weights: Sequence[float]) -> list[int]:
    """Rounded so that none gets lost."""
    return [after - before for before, after in pairwise(map(round, (0, *accumulate(_parts(whole, weights)))))]

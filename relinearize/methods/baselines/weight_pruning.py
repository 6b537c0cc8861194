"""Unstructured pruning: single weights go, by magnitude over all layers together; no ReLU does.

A row of tables beside systems that remove ReLUs: sparse weights leave the cost of ReLUs as it is. One shot by
torch.nn.utils.prune, then fine-tuning of what is left (Han et al., NeurIPS 2015).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune

from relinearize.backbones.adapter import inner_network
from relinearize.methods.distill import Distill
from relinearize.methods.senet.sparse_training import LAYERS

DENSE, KEPT = "_orig", "_mask"  # what prune appends to a parameter's name


class PrunedDistill(Distill):
    """Fine-tuning, with distillation, of a network most of whose weights are and stay 0. Biases and batch norms are not
    pruned. Settings: conf/method/finetune/weight_pruning.yaml; arguments: see Distill.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, *, share: float = 0.9, **settings: Any) -> None:
        super().__init__(network, teacher, **settings)
        self.take("> 0", "< 1", share=share)
        layers = [module for module in inner_network(network).modules() if isinstance(module, LAYERS)]
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=share)

    def weights(self) -> dict[str, Tensor]:
        """With the zeros, under the backbone's own names."""
        state = super().weights()
        kept = {name.removesuffix(KEPT): state.pop(name) for name in list(state) if name.endswith(f"weight{KEPT}")}
        dense = {name: name.removesuffix(DENSE) for name in state if name.endswith(f"weight{DENSE}")}
        return {
            dense.get(name, name): value * kept[dense[name]] if name in dense else value
            for name, value in state.items()
        }

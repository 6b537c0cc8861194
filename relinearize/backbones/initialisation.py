"""Initial weights shared by all backbones."""

from torch import nn


def he_initialise(network: nn.Module) -> None:
    """He initialisation for ReLU networks (He et al. 2015, fan out); batch norm 1 and 0; linear layers N(0, 0.01)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)

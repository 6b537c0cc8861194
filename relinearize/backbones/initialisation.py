"""Initial weights: those shared by all backbones, and those of the official codes."""

from torch import nn

INITIALISATIONS = ("he", "snl", "senet")


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


def initialise_as_released(network: nn.Module, code: str, wide: bool) -> None:
    """The initial weights of a ResNet (`wide`: of a wide ResNet) in SNL's (`code` "snl") or SENet's and RLNet's code.

            convolutions                linear weights          linear bias
    snl     He, fan in (wide: out)      He (wide: PyTorch's)    PyTorch's (wide: 0)
    senet   He, fan out                 PyTorch's               PyTorch's (wide: 0)

    PyTorch's: U(-c, c) with c = 1 / sqrt(inputs). SENet's VGG16 has those of `he_initialise`.
    """
    fan_in = code == "snl" and not wide
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in" if fan_in else "fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            module.reset_parameters()
            if fan_in:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if wide:
                nn.init.zeros_(module.bias)

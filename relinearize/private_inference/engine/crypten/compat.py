"""CrypTen 0.4.1, of 2022, as today's PyTorch can import it: take `crypten` from here."""

import importlib.util
import sys

# It imports this module of torch, which has moved since, for ONNX, which is not used here.
_REGISTRATION = "torch.onnx._internal.registration"
if importlib.util.find_spec(_REGISTRATION) is None:
    sys.modules[_REGISTRATION] = importlib.import_module("torch.onnx._internal.torchscript_exporter.registration")

import crypten  # noqa: E402

__all__ = ["crypten"]

"""Convolutions on processors whose vector units float32 alone can fill: Winograd's algorithm, in C."""

from relinearize.convolution.switch import on_winograd, resolve_convolutions

__all__ = ["on_winograd", "resolve_convolutions"]

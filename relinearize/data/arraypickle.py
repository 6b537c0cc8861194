"""Read pickles of plain containers and numeric arrays, and nothing else.

A pickle is a program that calls functions by name. The six names that numpy's arrays need are answered by stand-ins
below, which accept numbers only; every other name is refused before it is looked up. A foreign file executes nothing.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.errors import UserError


class PlainType:
    """Stands in for numpy.dtype: numbers and booleans, by codes like u1 and i8."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"}:
            raise pickle.UnpicklingError(f"arrays of type {code!r} are not allowed")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        order = state[1]  # (version, byte order, ...)
        self.code = {"<": "<", ">": ">"}.get(order, "") + self.code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainType) and self.code == other.code

    __hash__ = None


class PlainArray:
    """Stands in for numpy.ndarray; `values` is the array, read-only."""

    values: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, is_fortran, raw = state
        self._build(raw, kind, shape, "F" if is_fortran else "C")

    def _build(self, raw: str | bytes, kind: PlainType, shape: tuple, order: str) -> PlainArray:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote its bytes as a string
        self.values = np.frombuffer(raw, kind.code).reshape(shape, order=order)
        return self


def _reconstruct(_class: object, _shape: object, _kind: object) -> PlainArray:
    return PlainArray()


def _frombuffer(raw: bytes, kind: PlainType, shape: tuple, order: str = "C") -> PlainArray:
    return PlainArray()._build(raw, kind, shape, "F" if order == "F" else "C")


def _scalar(kind: PlainType, raw: str | bytes) -> int | float | bool:
    return PlainArray()._build(raw, kind, (), "C").values.item()


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, with which Python 3 writes bytes into pickles of protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding} is not allowed")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Answers the names of numpy's arrays with the stand-ins above and refuses all others."""

    allowed = {  # noqa: RUF012 - never changed
        ("numpy", "ndarray"): PlainArray,
        ("numpy", "dtype"): PlainType,
        ("_codecs", "encode"): _encode,
        **{
            (f"{package}.{module}", name): function
            for package in ("numpy.core", "numpy._core")  # numpy 2 renamed the first to the second
            for module, name, function in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _frombuffer),
            )
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an image file") from None


def load_array_pickle(path: Path) -> dict[str, Any]:
    """The dict in a pickle; raises UserError naming the file when it is missing, cut short or holds something else."""
    try:
        with open(path, "rb") as file:
            # Python 2 wrote the official files: its strings become str through latin1.
            content = ArrayUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__} instead of a dict")
        return {
            key.decode("latin1") if isinstance(key, bytes) else str(key): value.values
            if isinstance(value, PlainArray)
            else value
            for key, value in content.items()
        }
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle can raise almost anything: EOFError, ValueError, KeyError, ...
        raise UserError(f"{path}: truncated or not a CIFAR file ({error})") from error

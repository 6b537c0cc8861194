"""A bundle as an ONNX model, for the engines of others. Needs the package onnx (the extra `onnx`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relinearize.errors import UserError
from relinearize.files import write_bytes
from relinearize.machine import installed
from relinearize.private_inference.bundle.bundle import INPUT, TOLERANCE, Bundle, worst_difference

# Old enough for what engines read; nothing newer is needed.
OPSET, IR_VERSION = 17, 8

_SAME_MEANING = {"add": "Add", "global_avg_pool": "GlobalAveragePool", "flatten": "Flatten"}


def check_installed() -> None:
    """UserError where onnx is missing."""
    if not installed("onnx"):
        raise UserError("onnx=true needs the package onnx: pip install -e '.[onnx]'")


def onnx_path(bundle: Path) -> Path:
    """Where the ONNX model of the bundle in that folder is written: beside it."""
    bundle = bundle.resolve() if bundle.name in ("", "..") else bundle
    return bundle.with_name(f"{bundle.name}.onnx")


def check_free(bundle: Path, onnx: bool) -> None:
    """UserError where the bundle or, with `onnx`, its ONNX model exists."""
    for path in (bundle, *([onnx_path(bundle)] if onnx else [])):
        if path.exists():
            raise UserError(f"{path} exists already; name another folder by output=, or delete that one")


def to_onnx(bundle: Bundle) -> Any:
    """The model (onnx.ModelProto): input N x C x H x W pixels of 0 to 1, output `logits`, any N.

    A masked ReLU is Where(mask, Relu(x), x), Relu where all are kept, Identity where none is; a replaced one has a
    polynomial in the place of x.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def emit(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [output], name=f"{op} {output}", **attributes))
        return output

    # The model's output is called logits; a node of the user's that is called so has another name here.
    names = {node.name: f"{node.name}.node" if node.name == "logits" else node.name for node in bundle.nodes}
    names[bundle.output] = "logits"
    for node in bundle.nodes:
        inputs, name, given = [names.get(one, one) for one in node.inputs], names[node.name], node.attributes
        tensors = bundle.tensors(node)
        if node.op == "affine":  # against a map: C x 1 x 1
            tensors = {role: value.reshape(-1, *[1] * (len(node.shape) - 1)) for role, value in tensors.items()}
        tensors = {role: constant(f"{name}.{role}", value) for role, value in tensors.items()}
        match node.op:
            case "normalize":
                mean, std = (
                    constant(f"{name}.{key}", np.array(given[key], np.float32).reshape(-1, 1, 1))
                    for key in ("mean", "std")
                )
                emit("Div", [emit("Sub", [*inputs, mean], f"{name}.centred"), std], name)
            case "conv2d":
                window = {"strides": given["stride"], "pads": given["padding"] * 2, "dilations": given["dilation"]}
                emit("Conv", [*inputs, *tensors.values()], name, group=given["groups"], **window)
            case "linear":
                emit("Gemm", [*inputs, *tensors.values()], name, transB=1)
            case "affine":
                emit("Add", [emit("Mul", [*inputs, tensors["scale"]], f"{name}.scaled"), tensors["shift"]], name)
            case "replaced_relu":
                coefficients = bundle.coefficients[node.name]
                named = [constant(f"{name}.{place}", value[None]) for place, value in enumerate(coefficients)]
                factor, *higher = named[:1] + named[2:]
                if higher:  # Horner's rule, see relu/replacement.py
                    lower, factor = [factor, *higher[:-1]], higher[-1]
                    for degree in reversed(range(len(lower))):
                        product = emit("Mul", [*inputs, factor], f"{name}.product{degree}")
                        factor = emit("Add", [product, lower[degree]], f"{name}.factor{degree}")
                linear = emit("Mul", [*inputs, factor], f"{name}.linear")
                removed = emit("Add", [linear, named[1]], f"{name}.removed") if len(named) > 1 else linear
                active = emit("Relu", inputs, f"{name}.all")
                emit("Where", [constant(f"{name}.mask", bundle.masks[node.name][None]), active, removed], name)
            case "masked_relu":
                mask = bundle.masks[node.name]
                if mask.all() or not mask.any():
                    emit("Relu" if mask.all() else "Identity", inputs, name)
                else:
                    active = emit("Relu", inputs, f"{name}.all")
                    emit("Where", [constant(f"{name}.mask", mask[None]), active, *inputs], name)
            case "avg_pool" | "max_pool":
                window = {"kernel_shape": given["kernel"], "strides": given["stride"], "pads": given["padding"] * 2}
                if node.op == "avg_pool":
                    emit("AveragePool", inputs, name, count_include_pad=1, **window)
                else:
                    emit("MaxPool", inputs, name, **window)
            case "concat":
                emit("Concat", inputs, name, axis=1)
            case op:
                emit(_SAME_MEANING[op], inputs, name)
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *bundle.input_shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", bundle.classes])
    graph = helper.make_graph(nodes, bundle.about.name or "network", [image], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="relinearize")
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model


def write_onnx(bundle: Bundle, path: Path | str) -> float | None:
    """Write the model to `path`, completely or not at all; `path` must not exist.

    Returns the largest difference of onnxruntime's logits from the reference's, as a share of the largest logit; None
    where it is not installed. UserError where they differ by more than rounding, and then nothing is written.
    """
    check_installed()
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already; delete it or name another output")
    content = to_onnx(bundle).SerializeToString()
    difference = None
    if installed("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        difference = worst_difference(bundle, lambda images: session.run(["logits"], {INPUT: images})[0])
        if not difference < TOLERANCE:
            raise UserError(f"onnxruntime's logits differ from torch's by {difference:.1e} of the largest")
    write_bytes(path, content)
    return difference

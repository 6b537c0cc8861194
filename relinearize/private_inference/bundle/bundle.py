"""A bundle: one network with one mask, in a folder that holds no code and that needs no torch to be read.

    graph.json               the nodes in topological order, shapes, sites, where the network comes from; public
    masks.safetensors        one uint8 tensor C x H x W per site, 1 = the ReLU is kept; for a replaced_relu also
                             `SITE.coefficients` (float32, relu/replacement.py) of what stands at 0; public
    weights.safetensors      float32, `NODE.weight`, `NODE.bias`, ...; the server's secret
    reference.safetensors    images (float32, N x C x H x W, pixels of 0 to 1), the plaintext logits, labels if known

Batch norms are folded away. graph.json states the SHA-256 of the other files; all is checked when it is read. What each
node computes stands in `operations.OPERATIONS`; `run_bundle` computes the network.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from relinearize.errors import UserError
from relinearize.files import read_json, sealed, sync_folder
from relinearize.private_inference.bundle.operations import OPERATIONS, SITES, Shape, result_shape
from relinearize.private_inference.bundle.tournament import MaxPool
from relinearize.relu.replacement import COEFFICIENTS, REPLACEMENTS

T = TypeVar("T")

FORMAT, SCHEMA_VERSION = "relinearize-bundle", 1
GRAPH, MASKS, WEIGHTS, REFERENCE = "graph.json", "masks.safetensors", "weights.safetensors", "reference.safetensors"
TOLERANCE = 1e-4  # of the largest logit; larger differences are more than rounding
CHECKED = 8  # images of the reference that other implementations compute
INPUT = "input"  # what the first nodes name as their input: the image


@dataclass(frozen=True)
class Node:
    """One operation; `inputs` are names of earlier nodes or INPUT, `shape` is that of the result without batch."""

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """Where a network comes from, for records and people; None or "" where unknown. `key`: the run's."""

    name: str = ""
    key: str = ""
    backbone: str = ""
    width: int | None = None
    convention: str = ""
    dataset: str = ""
    title: str = ""
    route: str | None = None
    test_accuracy: float | None = None


@dataclass(frozen=True)
class Reference:
    """Images with the network's logits in plain float32; `labels` (int64) None where unknown."""

    images: np.ndarray
    logits: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Bundle:
    """The content of the folder. `weights` is None for a party that must not know them.

    reference: None in memory, for counts alone.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    masks: dict[str, np.ndarray]  # bool, in forward order
    weights: dict[str, np.ndarray] | None
    reference: Reference | None
    about: About = About()
    coefficients: dict[str, np.ndarray] = field(default_factory=dict)  # of sites with replaced_relu

    @property
    def replacement(self) -> str:
        """What stands at removed positions, at every site."""
        return REPLACEMENTS[max((len(values) for values in self.coefficients.values()), default=0)]

    @property
    def output(self) -> str:
        """Name of the last node, whose result are the logits."""
        return self.nodes[-1].name

    @property
    def classes(self) -> int:
        return self.nodes[-1].shape[0]

    @property
    def kept(self) -> dict[str, int]:
        """ReLUs kept at each site."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}

    @property
    def relus(self) -> int:
        return sum(self.kept.values())

    @property
    def pools(self) -> dict[str, MaxPool]:
        """Max-pool -> what is compared in it."""
        shapes = {node.name: node.shape for node in self.nodes} | {INPUT: self.input_shape}
        pools = [node for node in self.nodes if node.op == "max_pool"]
        return {node.name: MaxPool.of(shapes[node.inputs[0]], node.attributes) for node in pools}

    @property
    def pool_comparisons(self) -> int:
        """Of all max-pools, beside the ReLUs."""
        return sum(pool.comparisons for pool in self.pools.values())

    def tensors(self, node: Node, weights: Mapping[str, T] | None = None) -> dict[str, T]:
        """What `node` reads from the weights, or from others of their names: "weight" -> array, ..."""
        roles = OPERATIONS[node.op].tensors
        weights = self.weights if weights is None else weights
        if roles and weights is None:
            raise ValueError("this bundle was read without its weights")
        return {role: weights[f"{node.name}.{role}"] for role in roles}

    def arguments(self, node: Node, dtype: Any = np.float32) -> dict[str, Any]:
        """What the operation of `node` takes beside its inputs: attributes, tensors in `dtype`, a site's mask."""
        tensors = {role: tensor.astype(dtype, copy=False) for role, tensor in self.tensors(node).items()}
        tables = {"mask": self.masks, COEFFICIENTS: self.coefficients}
        public = {key: values[node.name] for key, values in tables.items() if node.name in values}
        return node.attributes | tensors | public

    def evaluate(self, image: T, compute: Callable[[Node, list[T]], T]) -> T:
        """The logits: `compute` gives the result of a node, in any arithmetic, from the results that it reads."""
        values = {INPUT: image}
        last_use = {name: node.name for node in self.nodes for name in node.inputs}
        for node in self.nodes:
            values[node.name] = compute(node, [values[name] for name in node.inputs])
            for name in set(node.inputs):
                if last_use[name] == node.name:
                    del values[name]
        return values[self.output]

    def check(self) -> None:
        """Raise ValueError unless graph, masks, weights and reference go together."""
        if not self.nodes:
            raise ValueError("the graph is empty")
        shapes = {INPUT: self.input_shape}
        read = set()
        for node in self.nodes:
            try:
                shape = self._shape(node, shapes)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(f"node {node.name} ({node.op}): {error}") from error
            if shape != node.shape:
                raise ValueError(f"node {node.name} ({node.op}) gives {shape}, not {node.shape}")
            shapes[node.name] = shape
            read |= {f"{node.name}.{role}" for role in OPERATIONS[node.op].tensors}
        sites = [node.name for node in self.nodes if node.op in SITES]
        if sorted(sites) != sorted(self.masks):
            raise ValueError(f"sites {sites} of the graph, but masks of {list(self.masks)}")
        replaced = {node.name for node in self.nodes if node.op == "replaced_relu"}
        if replaced != set(self.coefficients) or len({len(values) for values in self.coefficients.values()}) > 1:
            raise ValueError(f"replaced sites {sorted(replaced)}, but coefficients of {sorted(self.coefficients)}")
        if self.weights is not None and read != set(self.weights):
            raise ValueError(f"weights that are not those of the graph: {sorted(read ^ set(self.weights))[:4]}")
        images, logits = self.reference.images, self.reference.logits
        if images.shape[1:] != self.input_shape or logits.shape != (len(images), *self.nodes[-1].shape):
            raise ValueError(f"reference images {images.shape} and logits {logits.shape} do not fit the graph")
        if self.reference.labels is not None and self.reference.labels.shape != (len(images),):
            raise ValueError("as many labels as reference images are needed")

    def _shape(self, node: Node, known: Mapping[str, Shape]) -> Shape:
        if node.op not in OPERATIONS:
            raise ValueError(f"unknown operation; known: {', '.join(OPERATIONS)}")
        operation = OPERATIONS[node.op]
        count = len(node.inputs)
        if node.name in known or (count < 2 if operation.inputs is None else count != operation.inputs):
            raise ValueError(f"its name is taken, or {count} inputs")
        missing = [name for name in node.inputs if name not in known]
        if missing:
            raise ValueError(f"inputs {missing} are no earlier nodes")
        if set(node.attributes) != set(operation.attributes):
            raise ValueError(f"attributes {sorted(node.attributes)}, not {sorted(operation.attributes)}")
        if operation.tensors and self.weights is None:
            return node.shape  # they decide it, and are not here
        return result_shape(node.op, [known[name] for name in node.inputs], self.arguments(node))


# ---- what it computes ------------------------------------------------------------------------------------------------


def run_bundle(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Logits (N x classes) of `images` (N x C x H x W, pixels of 0 to 1), in the dtype of `images`."""

    def compute(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        return OPERATIONS[node.op].compute(*inputs, **bundle.arguments(node, images.dtype))

    return bundle.evaluate(images, compute)


def worst_difference(bundle: Bundle, run: Callable[[np.ndarray], np.ndarray] | None = None) -> float:
    """The logits of `run`, `run_bundle` if None, against those of the reference, as a share of the largest logit."""
    images, expected = bundle.reference.images[:CHECKED], bundle.reference.logits[:CHECKED]
    found = run_bundle(bundle, images) if run is None else run(images)
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def right(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Whether the largest of each row of logits is that of its class, N bools; of a row with NaN nothing is right."""
    return (logits.argmax(1) == classes) & ~np.isnan(logits).any(1)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_bundle(bundle: Bundle, folder: Path | str) -> None:
    """Write `folder`, completely or not at all. UserError where it exists already or cannot be written."""
    bundle.check()
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; name another folder, or delete that one")
    reference = {"images": bundle.reference.images, "logits": bundle.reference.logits}
    if bundle.reference.labels is not None:
        reference["labels"] = bundle.reference.labels
    files = {
        MASKS: save(
            {name: mask.astype(np.uint8) for name, mask in bundle.masks.items()}
            | {f"{name}.{COEFFICIENTS}": values for name, values in bundle.coefficients.items()}
        ),
        WEIGHTS: save({name: np.ascontiguousarray(value) for name, value in bundle.weights.items()}),
        REFERENCE: save({name: np.ascontiguousarray(value) for name, value in reference.items()}),
    }
    graph = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "about": asdict(bundle.about),
        "input": {"name": INPUT, "shape": bundle.input_shape},
        "output": {"name": bundle.output, "shape": bundle.nodes[-1].shape},
        "sites": [
            {"name": name, "total": int(mask.size), "kept": int(mask.sum())} for name, mask in bundle.masks.items()
        ],
        "pools": [
            {"name": name, "comparisons": pool.comparisons, "rounds": pool.rounds}
            for name, pool in bundle.pools.items()
        ],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "nodes": [asdict(node) for node in bundle.nodes],
    }
    files[GRAPH] = sealed(json.dumps(graph, indent=1, allow_nan=False)).encode()
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (work / name).write_bytes(content)
        sync_folder(work)
        work.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_bundle(folder: Path | str, weights: bool = True) -> Bundle:
    """Read and check a bundle; `weights=False`: without the server's secret, whose file may then be missing.

    UserError names the file and what is wrong: no bundle, another version, damaged, changed since it was written.
    """
    folder = Path(folder)
    if not (folder / GRAPH).is_file():
        raise UserError(f"bundle={folder} is no bundle: {GRAPH} is missing there")
    try:
        graph = read_json(folder / GRAPH)
        if not isinstance(graph, dict) or graph.get("format") != FORMAT:
            raise ValueError(f"not written as a {FORMAT}")
        if graph.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                f"{folder / GRAPH} has version {graph.get('schema_version')}; this program reads version "
                f"{SCHEMA_VERSION}: export the network again"
            )
        nodes = tuple(
            Node(entry["name"], entry["op"], tuple(entry["inputs"]), tuple(entry["shape"]), dict(entry["attributes"]))
            for entry in graph["nodes"]
        )
        public = _tensors(folder, MASKS, graph)
        replaced = [node.name for node in nodes if node.op == "replaced_relu"]
        coefficients = {name: public.pop(f"{name}.{COEFFICIENTS}") for name in replaced}
        masks = {name: mask != 0 for name, mask in public.items()}
        reference = _tensors(folder, REFERENCE, graph)
        bundle = Bundle(
            input_shape=tuple(graph["input"]["shape"]),
            nodes=nodes,
            masks={node.name: masks[node.name] for node in nodes if node.name in masks} | masks,
            weights=_tensors(folder, WEIGHTS, graph) if weights else None,
            reference=Reference(reference["images"], reference["logits"], reference.get("labels")),
            about=About(**{entry.name: graph["about"].get(entry.name, entry.default) for entry in fields(About)}),
            coefficients=coefficients,
        )
        bundle.check()
        if [(site["name"], site["kept"]) for site in graph["sites"]] != list(bundle.kept.items()):
            raise ValueError("its list of sites and its masks differ")
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"bundle {folder} is damaged: {reason}") from error
    return bundle


def _tensors(folder: Path, name: str, graph: dict[str, Any]) -> dict[str, np.ndarray]:
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != graph["files"][name]:
        raise ValueError(f"{name} is not the file that {GRAPH} was written with")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{name}: {error}") from error

"""Finished runs, or a checkpoint and a mask, as bundles for private inference, and what their networks compute."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from relinearize.backbones.adapter import PixelInput
from relinearize.backbones.routes import route_state
from relinearize.backbones.weights import match_weights, read_weights, without_prefixes
from relinearize.data.augment import to_pixels
from relinearize.data.splits import stable_order
from relinearize.errors import UserError
from relinearize.private_inference.bundle.bundle import About, Bundle, right, worst_difference, write_bundle
from relinearize.private_inference.bundle.exporting import as_bundle
from relinearize.private_inference.bundle.onnx_model import check_free, check_installed, onnx_path, write_onnx
from relinearize.private_inference.cost.backbones import recorded_name
from relinearize.records.run import Record
from relinearize.relu.mask import Mask
from relinearize.relu.replacement import COEFFICIENTS, IDENTITY
from relinearize.relu.sites import named_sites, to_masked, to_replaced
from relinearize.runs.build import all_relu_network, open_source
from relinearize.runs.describe import student_shape
from relinearize.runs.finished import FinishedRun, has_root
from relinearize.runs.submodels import ROUTE
from relinearize.targets import build
from relinearize.terminal import print_lines


@dataclass(frozen=True)
class Subject:
    """What is exported: a network with its mask, the config of its images, and where it comes from."""

    network: PixelInput
    config: DictConfig
    input_size: tuple[int, int, int]
    about: About
    place: Path | None = None  # of the bundle, if the user names none
    record: Record | None = None  # of a run
    other_routes: tuple[str, ...] = ()


def export_subject(
    subject: Subject, output: Path | None, images: int, onnx: bool, console: Console | None = None
) -> Path:
    """Write the bundle with `images` test images and, with `onnx`, its ONNX model; say so. Returns its folder."""
    if onnx:
        check_installed()
    folder = output or subject.place
    check_free(folder, onnx)
    pixels, labels = test_images(subject, images) if images else (None, None)
    bundle = as_bundle(subject.network, subject.input_size, images=pixels, labels=labels, about=subject.about)
    lines = summary(bundle, subject)
    if onnx:  # first: where it fails, no bundle is in the way of the next try
        model = onnx_path(folder)
        difference = write_onnx(bundle, model)
        checked = "not run: onnxruntime is missing" if difference is None else f"differs by {difference:.0e} in it"
        lines.append(f"{model}: onnxruntime {checked}")
    try:
        write_bundle(bundle, folder)
    except UserError:
        if onnx:
            model.unlink()
        raise
    print_lines([*lines, str(folder)], console)
    return folder


def of_run(folder: Path, route: str | None, root: str | None = None, trust: bool = False) -> Subject:
    """The network of a finished run. route: None for that of the run itself; root: where the images are now.

    UserError where the folder is no finished run or has no such route.
    """
    run = FinishedRun.open(folder, root, trust)
    routes = {run.record.route or "clean": run}
    parts = {part.folder.name: part for part in run.parts()}
    routes |= {name.removeprefix(ROUTE): part for name, part in parts.items() if name.startswith(ROUTE)}
    route = route or next(iter(routes))
    if route not in routes:
        raise UserError(f"route={route}: {run.folder} has no such route; valid: {', '.join(routes)}")
    run = routes.pop(route)
    record = run.record
    about = About(
        name=record.name, key=record.key, backbone=record.backbone.name,
        width=(record.backbone.student or record.backbone).width,
        convention=record.backbone.convention, dataset=record.dataset.name, title=record.dataset.title,
        route=record.route, test_accuracy=record.accuracy.test,
    )  # fmt: skip
    size = (record.dataset.channels, record.dataset.image_size, record.dataset.image_size)
    return Subject(run.network(), run.config, size, about, run.folder / "bundle", record, other_routes=tuple(routes))


def of_checkpoint(config: DictConfig, path: Path, mask: Path | None, route: str | None, root: str | None) -> Subject:
    """`config.backbone` for the images of `config.dataset`, with weights from the file `path`."""
    config = OmegaConf.merge({"seed": 0}, config)  # of initial weights, none of which stays
    if root:
        config.dataset.root = root
    source = build(config.dataset.source)
    network = all_relu_network(config, source, student=True)
    coefficients = [f"{name}.{COEFFICIENTS}" for name in named_sites(network.network)]
    weights = route_state(read_weights(path), route or "clean")
    weights = without_prefixes(weights, [*network.network.state_dict(), *coefficients])
    to_replaced(network.network, weights)
    network.network.load_state_dict(match_weights(network.network, weights, path))
    size = (source.channels, source.image_size, source.image_size)
    backbone = config.backbone
    if mask:
        kept, metadata = Mask.from_file(mask)
        metadata.check(backbone.name, backbone.get("convention", "all"), size)
        if metadata.replacement != IDENTITY and not any(name in weights for name in coefficients):
            raise UserError(f"{path} does not have at removed positions what {mask} says: {metadata.replacement}")
        to_masked(network.network, kept)
    about = About(
        name=path.stem, backbone=recorded_name(backbone), width=student_shape(config)["width"],
        convention=backbone.get("convention", "all"), dataset=config.dataset.name, title=config.dataset.title,
        route=route,
    )  # fmt: skip
    return Subject(network, config, size, about)


def test_images(subject: Subject, count: int) -> tuple[Tensor, Tensor]:
    """(pixels N x C x H x W, labels) of `count` test images, or of all if there are fewer.

    They are drawn in an order of their own, since a test set may be sorted by class: that of robust evaluations.
    """
    root = "root=FOLDER, and " if has_root(subject.config) else ""
    hint = f"; export takes {root}with images=0 no dataset"
    try:
        source = open_source(subject.config)
    except UserError as error:
        raise UserError(f"{error}{hint}") from error
    if subject.record is not None and source.fingerprint() != subject.record.dataset.fingerprint:
        place = subject.config.dataset.get("root")
        raise UserError(f"the images at dataset.root={place} are not those of the run{hint}")
    test = source.load("test")
    rows = torch.from_numpy(stable_order(len(test), 0, "robust evaluation")[:count])
    return to_pixels(test.images[rows]).contiguous(), test.labels[rows]


def summary(bundle: Bundle, subject: Subject) -> list[str]:
    """What was written, line by line."""
    live = sum(count > 0 for count in bundle.kept.values())
    total = sum(mask.size for mask in bundle.masks.values())
    route = f", route {subject.about.route}" if subject.about.route else ""
    others = f" (also: route={', route='.join(subject.other_routes)})" if subject.other_routes else ""
    lines = [
        f"{subject.about.name}{route}{others}: {bundle.relus:,} of {total:,} ReLUs kept, at {live} of "
        f"{len(bundle.masks)} sites; {len(bundle.nodes)} nodes, logits within {worst_difference(bundle):.0e} of torch's"
    ]
    if bundle.coefficients:
        lines.append(f"at the other {total - bundle.relus:,} positions: {bundle.replacement}")
    reference = bundle.reference
    if reference.labels is not None:
        share = 100 * np.mean(right(reference.logits, reference.labels))
        lines.append(f"reference: {len(reference.images)} test images, {share:.2f} % right")
    if pools := bundle.pools:
        lines.append(f"max-pools: {bundle.pool_comparisons:,} comparisons beside the ReLUs, of {', '.join(pools)}")
    return lines

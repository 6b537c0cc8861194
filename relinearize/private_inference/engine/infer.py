"""One private inference session from a bundle to its record: prepare, start, infer, compare."""

import contextlib
import hashlib
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from relinearize import __version__
from relinearize.errors import UserError
from relinearize.machine import processor_name
from relinearize.private_inference.bundle.bundle import GRAPH, Bundle, read_bundle
from relinearize.private_inference.cost.network import NETWORKS
from relinearize.private_inference.engine.engines import ENGINES
from relinearize.private_inference.engine.folder_lock import alone_in
from relinearize.private_inference.engine.job import CLIENT, IMAGE, PARTIES, SERVER, Job, log_file
from relinearize.private_inference.engine.layout import normalized, plain_tensors, require
from relinearize.private_inference.engine.options import Options
from relinearize.private_inference.engine.proxy import HOST, DelayProxy
from relinearize.private_inference.engine.results import Inferred, answers, model_of, summary
from relinearize.private_inference.engine.two_parties import TwoParties, free_ports, stopped_by_signals
from relinearize.progress import WorkProgress
from relinearize.records.inference import InferenceRecord

LOOPBACK_IMAGES = 3  # for the model, if the network is a slow one
STEPS_BEFORE = 3  # compiling, starting, the first inference


def infer(options: Options) -> InferenceRecord:
    """Do what `options` ask; the record is written. UserError names what cannot be."""
    bundle = read_bundle(options.bundle)
    require(bundle, options.engine)
    engine = ENGINES[options.engine]
    count = len(bundle.reference.images)
    if options.n_images > count:
        raise UserError(
            f"n_images={options.n_images}: the bundle has {count} reference images (export images=N gives N)"
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two parties share the cores of one machine
    load = os.getloadavg()[0]
    folder = options.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder} cannot be made ({error.strerror})") from error
    with alone_in(folder), stopped_by_signals(), WorkProgress(STEPS_BEFORE + options.n_images) as progress:
        progress.begins("compiling", announce=True)
        began = time.monotonic()
        inputs = prepared(options, bundle)
        compile_seconds = time.monotonic() - began
        progress.done(1)
        setup_seconds, phases = measured(options, bundle, inputs, progress)
    first, steady, loopback = (summary(phase) if phase else None for phase in phases)
    logits = np.array([client["logits"] for _, client in phases[1]])
    record = InferenceRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=asdict(bundle.about) | {"path": str(options.bundle), "graph_sha256": sha256(options.bundle / GRAPH)},
        relus=bundle.kept,
        positions={name: int(mask.size) for name, mask in bundle.masks.items()},
        engine=options.engine,
        protocol=options.protocol.name,
        security=options.protocol.security,
        settings={
            "field_bits": 64, "fraction_bits": engine.fraction_bits,
            "kn2row": options.kn2row, "local_truncation": options.local_truncation, **engine.settings,
        },
        network=asdict(options.network),
        compile_seconds=compile_seconds,
        setup_seconds=setup_seconds,
        first=first,
        steady=steady,
        loopback=loopback,
        model=model_of(options.protocol, options.network, bundle, steady, loopback or steady),
        answers=answers(bundle, logits),
        logits=tuple(map(tuple, logits.tolist())),
        versions={"relinearize": __version__, **{name: version(name) for name in engine.versions}},
        machine={
            "cpu": processor_name(), "cores": os.cpu_count(),
            "threads": os.environ["OMP_NUM_THREADS"], "load_before": load,
        },
    )  # fmt: skip
    record.write(folder)
    return record


def prepared(options: Options, bundle: Bundle) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what the parties put in: the image, then the server's tensors. SPU's program is written."""
    if options.engine == "spu":
        from relinearize.private_inference.engine.spu.program import write_program

        return write_program(bundle, options.kn2row, options.output)
    image = normalized(bundle, bundle.reference.images[0])
    return {IMAGE: image.shape, **{name: tensor.shape for name, tensor in plain_tensors(bundle).items()}}


def measured(
    options: Options, bundle: Bundle, inputs: dict[str, tuple[int, ...]], progress: WorkProgress
) -> tuple[float, tuple[list[Inferred], list[Inferred], list[Inferred]]]:
    """Seconds of the set-up; what the parties say of the first inference, the steady ones, those without delay."""
    progress.begins("starting both parties", announce=True)
    began = time.monotonic()
    ports = free_ports(2)
    with contextlib.ExitStack() as stack:
        proxy, reached = None, ports
        if options.network.emulated:
            proxy = stack.enter_context(DelayProxy(options.network, ports))
            reached = proxy.ports
        # Each party listens at its own port and dials the other through the proxy.
        addresses = (
            (f"{HOST}:{ports[SERVER]}", f"{HOST}:{reached[CLIENT]}"),
            (f"{HOST}:{reached[SERVER]}", f"{HOST}:{ports[CLIENT]}"),
        )
        job = Job(
            bundles=(str(options.bundle.resolve()),) * len(PARTIES),
            engine=options.engine,
            protocol=options.protocol.called,
            fraction_bits=ENGINES[options.engine].fraction_bits,
            local_truncation=options.local_truncation,
            timeout=options.timeout,
            addresses=addresses,
            inputs=inputs,
            classes=bundle.classes,
        )
        job.write(options.output)
        for rank in range(len(PARTIES)):
            log_file(options.output, rank).unlink(missing_ok=True)
        parties = stack.enter_context(TwoParties(options.output, options.timeout))
        parties.both()
        setup_seconds = time.monotonic() - began
        progress.done(1)

        def infer_image(index: int) -> Inferred:
            parties.tell(image=index)
            server, client = parties.both()
            return server, client

        progress.begins("first inference", announce=True)
        first = [infer_image(0)]
        progress.done(1)
        steady = []
        for index in range(options.n_images):
            tenth = index % max(1, options.n_images // 10) == 0
            progress.begins(f"image {index + 1} of {options.n_images}", announce=tenth)
            steady.append(infer_image(index))
            progress.done(1)
        loopback = []
        if proxy is not None:
            progress.begins("again without delay", announce=True)
            proxy.become(NETWORKS["loopback"])
            loopback = [infer_image(index) for index in range(min(LOOPBACK_IMAGES, options.n_images))]
    return setup_seconds, (first, steady, loopback)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""One private inference session from a bundle to its record: prepare, start, infer, compare."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from filelock import FileLock, Timeout

from relinearize import __version__
from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.machine import processor_name
from relinearize.private_inference.bundle.bundle import GRAPH, Bundle, read_bundle, right
from relinearize.private_inference.cost.network import NETWORKS, Network
from relinearize.private_inference.cost.workload import Workload, bundle_workload
from relinearize.private_inference.engine.job import (
    CLIENT,
    IMAGES,
    KINDS,
    PARTIES,
    SERVER,
    Inferred,
    Job,
    log_file,
    total,
)
from relinearize.private_inference.engine.layers import Both, layer_costs
from relinearize.private_inference.engine.layout import require
from relinearize.private_inference.engine.options import InferOptions, Protocol
from relinearize.private_inference.engine.proxy import DelayProxy
from relinearize.private_inference.engine.sockets import socket_folder
from relinearize.private_inference.engine.table import show
from relinearize.private_inference.engine.two_parties import TwoParties, stopped_by_signals
from relinearize.progress import WorkProgress
from relinearize.records.inference import RECORD_FILE, Fidelity, InferenceRecord, KindCost, Model, Phase

LOCK_FILE = ".infer.lock"
LOOPBACK_BATCHES = 3  # for the model, if the network is a slow one
STEPS_BEFORE = 3  # compiling, starting, the first inference


def infer_and_show(options: InferOptions) -> None:
    show(infer(options), layers=options.layers)
    print(options.folder / RECORD_FILE, flush=True)


def infer(options: InferOptions) -> InferenceRecord:
    """Infer as `options` ask for and write the record. UserError names the option or the party that is at fault."""
    bundle = read_bundle(options.bundle)
    protocol, engine = options.chosen_protocol, options.chosen_engine
    require(bundle, protocol.engine)
    count = options.images(len(bundle.reference.images))
    os.environ["OMP_NUM_THREADS"] = options.threads
    # SPU's products start two threads whatever that says, which wait for each other: ten times the processor time.
    os.environ.setdefault("OMP_THREAD_LIMIT", options.threads)
    load = os.getloadavg()[0]
    folder = options.folder
    progress = WorkProgress(STEPS_BEFORE + math.ceil(count / options.batch))
    with alone_in(folder), stopped_by_signals(), progress:
        keep_larger(folder, options.bundle, count)
        progress.begins("compiling", announce=True)
        began = time.monotonic()
        inputs = prepared(options, bundle)
        compile_seconds = time.monotonic() - began
        progress.done(1)
        setup_seconds, phases = measured(options, count, inputs, progress)
    first, steady, loopback = (summary(phase, options.batch) if phase else None for phase in phases)
    layers, layers_are = layer_costs(bundle, options.batch, protocol.name, options.link, median_of(phases[1]))
    logits = np.concatenate([client.logits for _, client in phases[1]])[:count]
    origin = {"path": str(options.bundle), "graph_sha256": file_digest(options.bundle / GRAPH)}
    record = InferenceRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=asdict(bundle.about) | origin,
        relus=bundle.kept,
        positions={name: int(mask.size) for name, mask in bundle.masks.items()},
        replacement=bundle.replacement,
        layers=layers,
        layers_are=layers_are,
        engine=protocol.engine,
        protocol=protocol.name,
        security=protocol.security,
        settings={
            "field_bits": 64, "fraction_bits": engine.fraction_bits,
            "kn2row": options.kn2row, "local_truncation": options.local_truncation, **engine.settings,
        },
        network=asdict(options.link),
        batch=options.batch,
        compile_seconds=compile_seconds,
        setup_seconds=setup_seconds,
        first=first,
        steady=steady,
        loopback=loopback,
        model=model_of(protocol, options.link, bundle_workload(bundle, options.batch), steady, loopback or steady),
        fidelity=fidelity_of(bundle, logits),
        logits=tuple(map(tuple, logits.tolist())),
        versions={"relinearize": __version__, **{name: version(name) for name in engine.versions}},
        machine={
            "cpu": processor_name(), "cores": os.cpu_count(),
            "threads": options.threads, "load_before": load,
        },
    )  # fmt: skip
    record.write(folder)
    return record


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if it is missing: two inferences would write the same logs, and each would read the other's.

    UserError names the process that holds it already. The lock is the kernel's: it ends with the process.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        path.write_text(f"process {os.getpid()} on {os.uname().nodename}\n", encoding="utf-8")
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "another process"  # which has not yet written its name
        raise UserError(
            f"output={folder} is in use by {holder}, an inference of its own; "
            "wait until it has ended, or name another output="
        ) from None
    except OSError as error:
        raise UserError(f"output={folder} cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def keep_larger(folder: Path, bundle: Path, count: int) -> None:
    """UserError where `folder` has a record of the bundle with more than `count` images, which would be replaced."""
    try:
        record = InferenceRecord.read(folder / RECORD_FILE)
    except UserError:  # none, or one that nothing can read
        return
    there = record.fidelity.images
    if there > count and record.bundle.get("graph_sha256") == file_digest(bundle / GRAPH):
        raise UserError(
            f"output={folder} has a record of {there} images, which one of {count} would replace; "
            f"give n_images={there} or more, or another output="
        )


def prepared(options: InferOptions, bundle: Bundle) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parties' inputs: the images, then the server's tensors. Writes SPU's program."""
    if options.chosen_protocol.engine == "spu":
        from relinearize.private_inference.engine.spu.lowering import write_program

        return write_program(bundle, options.batch, options.kn2row, options.folder)
    shapes = {name: tensor.shape for name, tensor in bundle.weights.items()}
    return {IMAGES: (options.batch, *bundle.input_shape), **shapes}


def measured(
    options: InferOptions, count: int, inputs: dict[str, tuple[int, ...]], progress: WorkProgress
) -> tuple[float, tuple[list[Both], list[Both], list[Both]]]:
    """Seconds of the set-up; the reports on the first inference, on the steady ones, on those without delay.

    count: images. The last batch is filled up with the first images again, as an engine's program is for one size.
    """
    progress.begins("starting both parties", announce=True)
    began = time.monotonic()
    folder, protocol, link = options.folder, options.chosen_protocol, options.link
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(socket_folder())
        own = [sockets / name for name in PARTIES]
        proxy, reached = None, own
        if link.emulated:
            proxy = stack.enter_context(DelayProxy(link, own))
            reached = proxy.paths
        # Each party listens at its own socket and dials the other through the proxy.
        paths = ((own[SERVER], reached[CLIENT]), (reached[SERVER], own[CLIENT]))
        job = Job(
            bundles=(str(options.bundle.resolve()),) * len(PARTIES),
            graph_sha256=file_digest(options.bundle / GRAPH),
            engine=protocol.engine,
            protocol=protocol.name.upper(),
            fraction_bits=options.chosen_engine.fraction_bits,
            local_truncation=options.local_truncation,
            timeout=options.timeout,
            sockets=tuple((str(server), str(client)) for server, client in paths),
            inputs=inputs,
        )
        job.write(folder)
        for rank in range(len(PARTIES)):
            log_file(folder, rank).unlink(missing_ok=True)
        parties = stack.enter_context(TwoParties(folder, options.timeout))
        parties.both()
        setup_seconds = time.monotonic() - began
        progress.done(1)

        def infer_batch(number: int) -> Both:
            start = number * options.batch
            parties.tell(images=[index % count for index in range(start, start + options.batch)])
            server, client = map(Inferred.of_event, parties.both())
            return server, client

        progress.begins("first inference", announce=True)
        first = [infer_batch(0)]
        progress.done(1)
        steady, batches, name = [], math.ceil(count / options.batch), "batch" if options.batch > 1 else "image"
        for number in range(batches):
            announced = number % max(1, batches // 10) == 0
            progress.begins(f"{name} {number + 1} of {batches}", announce=announced)
            steady.append(infer_batch(number))
            progress.done(1)
        loopback = []
        if proxy is not None:
            progress.begins("again without delay", announce=True)
            proxy.become(NETWORKS["loopback"])
            loopback = [infer_batch(number) for number in range(min(LOOPBACK_BATCHES, batches))]
    return setup_seconds, (first, steady, loopback)


# ---- from the parties' reports to the numbers of the record ----------------------------------------------------------


def median_of(inferred: Sequence[Both]) -> Both:
    """Of two in the middle the first that comes as near as any."""
    middle = median(client.seconds for _, client in inferred)
    return min(inferred, key=lambda both: abs(both[CLIENT].seconds - middle))


def summary(inferred: Sequence[Both], batch: int) -> Phase:
    """`batch`: images of each inference. Latency is the client's: it ends when the client knows the logits."""
    seconds = [client.seconds for _, client in inferred]
    server, client = median_of(inferred)
    kinds = {}
    for kind in KINDS:
        ours, theirs = server.costs[kind], client.costs[kind]
        kinds[kind] = KindCost(
            seconds=max(ours.seconds, theirs.seconds),
            bytes=ours.bytes + theirs.bytes,
            messages=max(ours.messages, theirs.messages),
            calls=ours.calls,
        )
    return Phase(
        seconds=tuple(seconds),
        median_seconds=median(seconds),
        seconds_per_image=median(seconds) / batch,
        server_cpu_seconds=server.cpu_seconds,
        client_cpu_seconds=client.cpu_seconds,
        server_bytes=total(server.costs).bytes,
        client_bytes=total(client.costs).bytes,
        messages=max(total(server.costs).messages, total(client.costs).messages),
        kinds=kinds,
    )


def model_of(protocol: Protocol, network: Network, workload: Workload, steady: Phase, loopback: Phase) -> Model:
    """`workload`: of a batch; `loopback`: the same without delay."""
    messages = protocol.sequential_messages(steady.messages, workload)
    direction_bytes = max(steady.server_bytes, steady.client_bytes)
    predicted = network.predicted_seconds(loopback.median_seconds, messages, direction_bytes)
    return Model(loopback.median_seconds, messages, direction_bytes, predicted, steady.median_seconds)


def fidelity_of(bundle: Bundle, logits: np.ndarray) -> Fidelity:
    """`logits` of the first reference images against those of plaintext, and against the labels."""
    count, reference = len(logits), bundle.reference
    plain, labels = reference.logits[:count], None if reference.labels is None else reference.labels[:count]
    plain_class = plain.argmax(1)
    finite = np.isfinite(plain) & np.isfinite(logits)  # polynomials far from zero can leave either
    return Fidelity(
        images=count,
        max_error=float(np.abs(logits - plain)[finite].max(initial=0)),
        logit_scale=float(np.abs(plain)[finite].max(initial=0)),
        agreement=100 * float(np.mean(right(logits, plain_class) & right(plain, plain_class))),
        private_accuracy=None if labels is None else 100 * float(np.mean(right(logits, labels))),
        plaintext_accuracy=None if labels is None else 100 * float(np.mean(right(plain, labels))),
    )

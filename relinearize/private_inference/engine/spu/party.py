"""One of the two parties under SPU."""

import time
from pathlib import Path

import numpy as np
import spu

from relinearize.private_inference.bundle.bundle import Bundle
from relinearize.private_inference.bundle.fixed_point import nearest
from relinearize.private_inference.engine.job import (
    CLIENT,
    IMAGES,
    LOGITS,
    PARTIES,
    PROGRAM_FILE,
    SERVER,
    Cost,
    Inferred,
    Job,
    log_file,
)
from relinearize.private_inference.engine.layout import client_images, pool_shares, server_tensors
from relinearize.private_inference.engine.spu.profile import read_profile

SECRET = spu.Visibility.VIS_SECRET


class SpuParty:
    """Set up once, then `infer` per batch, which both parties must do together."""

    def __init__(self, job: Job, rank: int, folder: Path, bundle: Bundle) -> None:
        self.job, self.rank, self.log = job, rank, log_file(folder, rank)
        log_into(self.log)
        config = runtime_config(job.protocol, job.fraction_bits, job.local_truncation)
        self.io = spu.Io(2, config)
        self.program = spu.Executable()
        self.program.ParseFromString((folder / PROGRAM_FILE).read_bytes())
        self.bundle = bundle
        own = server_tensors(bundle) if rank == SERVER else {}
        self.link = connected(job, rank)
        self.runtime = spu.Runtime(self.link, config)
        for name in job.inputs:
            if name != IMAGES:
                self._share(name, SERVER, own.get(name))

    def _share(self, name: str, owner: int, value: np.ndarray | None) -> None:
        """Set this party's part of a secret: for its owner all of `value`, for the other zeros of its shape."""
        known = np.zeros(self.job.inputs[name], np.float32) if value is None else value
        self.runtime.set_var(name, self.io.make_shares(known, SECRET, owner)[self.rank])

    def infer(self, indices: list[int]) -> Inferred:
        pixels = self.bundle.reference.images[indices]
        images = nearest(client_images(self.bundle, pixels), self.job.fraction_bits) if self.rank == CLIENT else None
        self._share(IMAGES, CLIENT, images)
        profiled = self.log.stat().st_size
        self.link.barrier()
        began, computed = time.monotonic(), time.process_time()
        self.runtime.run(self.program)
        logits, revealed = self._reveal()
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - computed
        with open(self.log, encoding="utf-8", errors="replace") as log:
            log.seek(profiled)
            costs = read_profile(log, pool_shares(self.bundle))
        costs["other"] += revealed
        return Inferred(seconds, cpu_seconds, costs, logits)

    def _reveal(self) -> tuple[list[list[float]] | None, Cost]:
        """The logits for the client, None for the server; and what the server sends for them."""
        share = self.runtime.get_var(LOGITS)
        if self.rank == SERVER:
            content = b"".join(share.share_chunks)
            self.link.send(CLIENT, content)
            return None, Cost(bytes=len(content), messages=1)
        theirs = spu.libspu.Share()
        theirs.meta, theirs.share_chunks = share.meta, [self.link.recv(SERVER)]
        logits = self.io.reconstruct([theirs, share])
        return np.asarray(logits, np.float64).reshape(-1, self.bundle.classes).tolist(), Cost()


def runtime_config(protocol: str, fraction_bits: int, local_truncation: bool) -> spu.RuntimeConfig:
    """64-bit ring. What one party owns stays with it as it is (no dealing of shares), and every run is profiled."""
    field = spu.FieldType.FM64
    config = spu.RuntimeConfig(
        protocol=getattr(spu.ProtocolKind, protocol), field=field, fxp_fraction_bits=fraction_bits
    )
    config.experimental_enable_colocated_optimization = True
    config.trunc_allow_msb_error = local_truncation
    config.enable_pphlo_profile = True
    return config


def connected(job: Job, rank: int) -> "spu.link.Context":
    """The link of two parties; waits for the other. Nothing in it gives up before `job.timeout`."""
    description = spu.link.Desc()
    for name, path in zip(PARTIES, job.sockets[rank], strict=True):
        description.add_party(name, f"unix:{path}")
    description.connect_retry_interval_ms = 200
    description.connect_retry_times = job.timeout * 5
    description.recv_timeout_ms = description.http_timeout_ms = job.timeout * 1000
    return spu.link.create_brpc(description, rank)


def log_into(path: Path) -> None:
    """SPU's log, profiles among it, into a file and nowhere else."""
    options = spu.libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(path)
    spu.libspu.logging.setup_logging(options)

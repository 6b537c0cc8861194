"""SPU's settings, and how a party enters its own values. Imported in the engine's environment only."""

from pathlib import Path

import numpy as np
import spu

from relinearize.private_inference.engine.job import PARTIES, Job

SECRET = spu.Visibility.VIS_SECRET


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
    """The link of two parties over TCP; waits for the other. Nothing in it gives up before `job.timeout`."""
    description = spu.link.Desc()
    for name, address in zip(PARTIES, job.addresses[rank], strict=True):
        description.add_party(name, address)
    description.connect_retry_interval_ms = 200
    description.connect_retry_times = job.timeout * 5
    description.recv_timeout_ms = description.http_timeout_ms = job.timeout * 1000
    return spu.link.create_brpc(description, rank)


def own_share(io: spu.Io, rank: int, owner: int, value: np.ndarray) -> "spu.libspu.Share":
    """The part of a secret that party `rank` holds: for its owner all of `value`, for the other zeros of its shape."""
    return io.make_shares(value if rank == owner else np.zeros_like(value), SECRET, owner)[rank]


def share_of(meta: bytes, chunks: list[bytes]) -> "spu.libspu.Share":
    share = spu.libspu.Share()
    share.meta, share.share_chunks = meta, chunks
    return share


def log_into(path: Path) -> None:
    """SPU's log, profiles among it, into a file and nowhere else."""
    options = spu.libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(path)
    spu.libspu.logging.setup_logging(options)

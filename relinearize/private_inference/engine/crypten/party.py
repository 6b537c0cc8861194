"""One of the two parties under CrypTen."""

import time
from typing import Any

import numpy as np
import torch

from relinearize.private_inference.bundle.bundle import read_bundle
from relinearize.private_inference.engine.crypten.link import Link, LinkCommunicator, connected, crypten
from relinearize.private_inference.engine.crypten.network import Meter, SecretNetwork
from relinearize.private_inference.engine.job import CLIENT, IMAGE, SERVER, Inferred, Job
from relinearize.private_inference.engine.layout import normalized, plain_tensors

GRACE_SECONDS = 5  # before a party that lost the other ends, so that the starter names the one that died first


class CryptenParty:
    """Set up once, then `infer` per image, which both parties must do together."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.rank = job, rank
        self.bundle = read_bundle(job.bundles[rank], weights=rank == SERVER)
        began = time.monotonic()
        self.link = Link(connected(job, rank))
        self.link_seconds = time.monotonic() - began
        LinkCommunicator.serve(self.link, rank)
        crypten.init()
        crypten.cfg.mpc.provider = job.protocol
        crypten.cfg.encoder.precision_bits = job.fraction_bits
        own = plain_tensors(self.bundle) if rank == SERVER else {}
        names = [name for name in job.inputs if name != IMAGE]
        self.network = SecretNetwork(self.bundle, {name: self._secret(name, SERVER, own.get(name)) for name in names})

    def _secret(self, name: str, owner: int, value: np.ndarray | None) -> Any:
        """A shared tensor of which `owner` knows the value; the other party only knows the shape. Sends nothing."""
        known = torch.zeros(self.job.inputs[name]) if value is None else torch.from_numpy(np.array(value))
        return crypten.cryptensor(known, src=owner)

    def infer(self, index: int) -> Inferred:
        pixels = normalized(self.bundle, self.bundle.reference.images[index]) if self.rank == CLIENT else None
        with crypten.no_grad():
            image = self._secret(IMAGE, CLIENT, pixels)
            crypten.communicator.get().barrier()
            meter = Meter(lambda: (self.link.bytes, self.link.messages))
            began, computed = time.monotonic(), time.process_time()
            try:
                secret = self.network(image, meter)
                with meter.kind("other"):
                    logits = secret.get_plain_text(dst=CLIENT)
            except ConnectionError:
                time.sleep(GRACE_SECONDS)
                raise
            seconds, cpu_seconds = time.monotonic() - began, time.process_time() - computed
        known = None if logits is None else logits.double().reshape(self.job.classes).tolist()
        return Inferred(seconds, cpu_seconds, meter.costs, known)

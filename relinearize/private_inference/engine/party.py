"""One of the two parties, a process of its own: `python -m relinearize.private_inference.engine.party FOLDER RANK`.

Party 0, the server, reads the weights; party 1, the client, reads the images and never the weights. The client alone
learns the logits: the server sends it its half of them.
"""

import json
import os
import queue
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relinearize.errors import UserError
from relinearize.files import file_digest
from relinearize.private_inference.bundle.bundle import GRAPH, read_bundle
from relinearize.private_inference.bundle.fixed_point import with_nearest
from relinearize.private_inference.engine.job import SERVER, Job


def new_party(job: Job, rank: int, folder: Path) -> Any:
    """Set up, which takes both parties.

    It has `infer(indices)`, of a batch of reference images, to an Inferred, which both parties must call together.
    UserError where its bundle is damaged or another than the one of the job; the server alone reads the weights.
    """
    place = Path(job.bundles[rank])
    bundle = read_bundle(place, weights=rank == SERVER)
    if file_digest(place / GRAPH) != job.graph_sha256:
        raise UserError(f"bundle={place} is another version than the one that this inference was prepared with")
    bundle = with_nearest(bundle, job.fraction_bits)
    if job.engine == "spu":
        from relinearize.private_inference.engine.spu.party import SpuParty

        return SpuParty(job, rank, folder, bundle)
    from relinearize.private_inference.engine.crypten.party import CryptenParty

    return CryptenParty(job, rank, bundle)


def main(folder: Path, rank: int) -> None:
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # standard output is for events alone: whatever else is printed goes into the log, as errors do
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(commands,), daemon=True).start()

    def say(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    try:
        party = new_party(Job.read(folder), rank, folder)
    except UserError as error:
        say("failed", reason=str(error))
        raise SystemExit(1) from None
    say("ready")
    while True:
        say("inferred", **asdict(party.infer(json.loads(commands.get())["images"])))


def listen(commands: queue.SimpleQueue[str]) -> None:
    """Commands as they come. When there can be no more, the starter is gone or done: leave, whatever goes on."""
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

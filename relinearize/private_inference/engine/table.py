"""The tables that `relinearize infer` prints."""

from rich.console import Console
from rich.table import Table

from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.table import print_layers
from relinearize.records.inference import InferenceRecord
from relinearize.terminal import print_lines, right_column


def show(record: InferenceRecord, console: Console | None = None, layers: bool = False) -> None:
    columns = ("runs", "seconds", "CPU s, both", "MB to client", "MB to server", "messages")
    title = f"{record.engine} {record.protocol}, {Network(**record.network).text}"
    phases = Table("phase", *map(right_column, columns), title=title)
    phases.add_row("compile", "", f"{record.compile_seconds:.2f}")
    phases.add_row("set-up", "", f"{record.setup_seconds:.2f}")
    for name, phase in (("first", record.first), ("steady", record.steady), ("no delay", record.loopback)):
        if phase is not None:
            cpu = phase.server_cpu_seconds + phase.client_cpu_seconds
            sent = [f"{size / 1e6:.3f}" for size in (phase.server_bytes, phase.client_bytes)]
            seconds = (f"{phase.median_seconds:.2f}", f"{cpu:.2f}")
            phases.add_row(name, str(len(phase.seconds)), *seconds, *sent, str(phase.messages))
    columns = ("calls", "seconds", "MB both ways", "share", "messages")
    kinds = Table("steady, by operation", *map(right_column, columns), title=f"one inference, batch={record.batch}")
    for name, cost in record.steady.kinds.items():
        share = f"{100 * cost.bytes / record.steady.bytes:.1f} %"
        row = (str(cost.calls), f"{cost.seconds:.3f}", f"{cost.bytes / 1e6:.3f}", share, str(cost.messages))
        kinds.add_row(name, *row)
    console = console or Console()
    console.print(phases)
    console.print(kinds)
    if layers:
        print_layers(f"one inference by layer: {record.layers_are}", record.layers, console, record.batch)
    print_lines(lines(record), console)


def lines(record: InferenceRecord) -> list[str]:
    kept, total = sum(record.relus.values()), sum(record.positions.values())
    relu = record.steady.kinds["relu"].bytes
    alone = record.replacement in ("identity", "zero")  # the others' bytes are among those of the ReLUs
    per_relu = f", {relu / kept / record.batch:.1f} bytes each" if kept and alone else ""
    model, fidelity = record.model, record.fidelity
    found = [f"{kept:,} of {total:,} ReLUs kept at {record.live_sites} of {len(record.relus)} sites{per_relu}"]
    if compared := record.pool_comparisons:
        each = record.steady.kinds["pool"].bytes / compared / record.batch
        found.append(f"{compared:,} comparisons of max-pools beside them, {each:.1f} bytes each")
    if record.batch > 1:
        batches, images, share = len(record.steady.seconds), fidelity.images, record.steady.seconds_per_image
        filled = batches * record.batch - images
        note = f" (the last filled up with {filled} that are not counted)" if filled else ""
        found.append(
            f"batch={record.batch}: {images} images in {batches} inference{'s' * (batches > 1)}{note}, "
            f"{record.steady.median_seconds:.2f} s each, {share:.3f} s per image, {1 / share:.2f} images per second"
        )
    if record.replacement != "identity":
        found.append(f"at the other {total - kept:,} positions: {record.replacement}")
    if record.loopback is not None:
        found.append(
            f"model: {model.loopback_seconds:.2f} s without delay + {model.sequential_messages} messages x RTT/2 + "
            f"bytes / rate = {model.predicted_seconds:.2f} s; measured {model.measured_seconds:.2f} s"
        )
    found.append(
        f"logits within {fidelity.max_error:.1e} of plaintext ({fidelity.relative_error:.1e} of the largest); "
        f"same class for {fidelity.agreement:.1f} % of {fidelity.images} images"
    )
    if fidelity.private_accuracy is not None:
        private, plaintext = fidelity.private_accuracy, fidelity.plaintext_accuracy
        found.append(f"private accuracy {private:.2f} %, plaintext {plaintext:.2f} %")
    found.append(f"{record.protocol}: {record.security}")
    return found

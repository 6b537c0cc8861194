"""What a user may ask of `relinearize infer`. All of it is checked before anything is compiled or started."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relinearize.arguments import key_values, whole_number, yes_or_no
from relinearize.errors import UserError
from relinearize.private_inference.cost.network import Network, read_network
from relinearize.private_inference.engine.engines import ENGINES
from relinearize.private_inference.engine.protocols import PROTOCOLS, Protocol

KEYS = {
    "bundle": "", "engine": "", "protocol": "", "n_images": "5", "network": "loopback", "output": "",
    "kn2row": "false", "local_truncation": "false", "timeout": "600", "python": "",
}  # fmt: skip
HELP = f"""\
usage: relinearize infer bundle=FOLDER [KEY=VALUE ...]

  bundle=FOLDER           what `relinearize export` wrote
  engine=spu              SecretFlow SPU, in the environment that `make pi` makes; or
         crypten          CrypTen, beside PyTorch, once `make crypten` has put it there
  protocol=cheetah        spu: {PROTOCOLS["cheetah"].security}
           semi2k         spu: {PROTOCOLS["semi2k"].security}
           tfp            crypten: {PROTOCOLS["tfp"].security}
  n_images=5              of the bundle's reference images, each on its own
  network=loopback        lan (1 ms RTT, 1000 Mbit/s), wan (40 ms, 100 Mbit/s) or {{rtt_ms:20,mbps:50}}: a delay proxy
                          between the two processes
  output=FOLDER           inference.json and the logs; default: BUNDLE-infer/PROTOCOL-NETWORK beside the bundle
  kn2row=false            semi2k: convolution as one product and shifts; sends less only with local_truncation=true
  local_truncation=false  semi2k: no messages for rounding after a product; wrong with a tiny probability per value
  timeout=600             seconds that a party may say nothing
  python=FILE             a Python that has the engine, if this one has not; spu's default: .venv-pi/bin/python here or
                          beside the package"""


@dataclass(frozen=True)
class Options:
    """Checked arguments; `output` is where record and logs go."""

    bundle: Path
    engine: str
    protocol: Protocol
    n_images: int
    network: Network
    output: Path
    kn2row: bool
    local_truncation: bool
    timeout: int
    python: str


def read_options(arguments: Sequence[str]) -> Options:
    """UserError for what cannot be; whether the bundle can be read is found out later."""
    values = key_values("infer", arguments, KEYS)
    if not values["bundle"]:
        raise UserError("infer needs bundle=FOLDER, what `relinearize export run=FOLDER` wrote")
    protocol = read_protocol(values["engine"], values["protocol"])
    flags = {key: yes_or_no(key, values[key]) for key in ("kn2row", "local_truncation")}
    for key, wanted in flags.items():
        if wanted and protocol.name != "semi2k":
            raise UserError(f"{key}=true goes with protocol=semi2k only; {protocol.name} has no use for it")
    network = read_network(values["network"])
    bundle = Path(values["bundle"])
    name = "-".join([protocol.name, network.name, *(key for key, wanted in flags.items() if wanted)])
    return Options(
        bundle=bundle,
        engine=protocol.engine,
        protocol=protocol,
        n_images=whole_number("n_images", values["n_images"], least=1),
        network=network,
        output=Path(values["output"]) if values["output"] else bundle.with_name(f"{bundle.name}-infer") / name,
        timeout=whole_number("timeout", values["timeout"], least=10),
        python=values["python"],
        **flags,
    )


def read_protocol(engine: str, name: str) -> Protocol:
    """Each of the two may be left out: a protocol has one engine, and an engine's first protocol is its default."""
    if engine and engine not in ENGINES:
        raise UserError(f"engine={engine}: valid: {', '.join(ENGINES)}")
    valid = [one for one, protocol in PROTOCOLS.items() if engine in ("", protocol.engine)]
    if name and name not in valid:
        raise UserError(f"protocol={name}: valid{f' with engine={engine}' if engine else ''}: {', '.join(valid)}")
    return PROTOCOLS[name or valid[0]]

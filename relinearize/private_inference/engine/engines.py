"""The engines that run a bundle: where each is found, and how it computes."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relinearize.errors import UserError


@dataclass(frozen=True)
class Engine:
    """`package`: what an environment that has the engine can import; `environment`: the Python of the one that the
    Makefile makes, if it is one of its own; `versions`: distributions whose versions belong into a record."""

    title: str
    package: str
    environment: Path | None
    remedy: str
    fraction_bits: int
    settings: dict[str, Any]
    versions: tuple[str, ...]

    @property
    def here(self) -> bool:
        """Whether this environment has it."""
        return importlib.util.find_spec(self.package) is not None

    def python(self, asked: str | None) -> str:
        """Another Python that should have it, `asked` or the Makefile's; UserError says how to come by one."""
        repository = Path(__file__).parents[3]
        made = [] if self.environment is None else [Path.cwd() / self.environment, repository / self.environment]
        places = [Path(asked)] if asked else made
        found = next((place for place in places if os.access(place, os.X_OK)), None)
        if found is None:
            missing = f"there is none at {places[0]}" if places else "this environment has none"
            raise UserError(f"infer needs {self.title}, and {missing}; {self.remedy}, python=FILE names another")
        return str(found)


ENGINES = {
    "spu": Engine(
        title="SecretFlow SPU in an environment of its own",
        package="spu",
        environment=Path(".venv-pi/bin/python"),
        remedy="`make pi` makes it (Linux on x86-64, Python 3.11)",
        fraction_bits=18,
        settings={},
        versions=("spu", "jax", "numpy"),
    ),
    "crypten": Engine(
        title="CrypTen",
        package="crypten",
        environment=None,
        remedy="`make crypten` puts it into .venv; elsewhere `pip install --no-deps crypten==0.4.1`, onnx and pyyaml",
        fraction_bits=16,
        settings={"rounding": "local"},  # always; wrong with a tiny probability per value
        versions=("crypten", "torch", "numpy"),
    ),
}

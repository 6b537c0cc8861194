"""What `relinearize evaluate` is asked: key=value arguments over the files of conf/evaluation and its companions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from yaml import YAMLError

from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError

TOP = {"run": "", "evaluation": "clean", "accelerator": "auto", "root": None, "batch_size": "auto"}
VALID = ", ".join((*(f"{name}=" for name in TOP), "evaluation.KEY=", "attack.NAME.KEY=", "corruptions.KEY="))
HELP = """\
usage: relinearize evaluate run=FOLDER [evaluation=clean|robust] [KEY=VALUE ...]

  run=FOLDER            the folder of a finished run (below outputs/runs); several: run=A,B or run='outputs/runs/*'
  accelerator=auto      auto | cpu | cuda
  root=FOLDER           where the images lie, if not where they lay during the run
  batch_size=auto       images tested at once; auto: 250 on a CPU, else 1000; of attacks see evaluation.chunk
"""

Images = Annotated[int, Field(ge=1)]


class RobustSettings(BaseModel):
    """The keys of conf/evaluation/robust.yaml, which says what they mean; strictly typed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    attacks: list[str]
    epsilon: Annotated[float, Field(gt=0, le=255)]
    n_clean: Images | None
    n_attack: Images | None
    n_autoattack: Images | None
    corruptions: str
    n_corruptions: Images | None
    checks: bool
    n_checks: Images
    seed: Annotated[int, Field(ge=0)]
    chunk: Images | None

    @field_validator("epsilon")
    @classmethod
    def _in_pixels(cls, epsilon: float) -> float:
        from relinearize.robustness.attacks import LEAST_RADIUS

        if epsilon < LEAST_RADIUS:
            raise ValueError(f"this is {epsilon}/255; give pixels times 255 (8 for 8/255)")
        return epsilon

    @field_validator("attacks")
    @classmethod
    def _each_once(cls, attacks: list[str]) -> list[str]:
        if len(set(attacks)) != len(attacks):
            raise ValueError("names an attack twice")
        return attacks


@dataclass(frozen=True)
class EvaluationOptions:
    """`robust` is None for a clean evaluation.

    attacks: name -> content of its config file, overrides applied; corruptions: the same of theirs, None for none.
    """

    folder: Path
    accelerator: str
    root: str | None
    batch_size: int | None
    robust: RobustSettings | None = None
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    corruptions: dict[str, Any] | None = None


def parse_options(arguments: list[str]) -> EvaluationOptions:
    """UserError for unknown keys and values, and for a missing run."""
    top, further = dict(TOP), []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if separator and key in TOP:
            top[key] = value
        elif separator and key.startswith(("evaluation.", "attack.", "corruptions.")):
            further.append((key, value))
        else:
            raise UserError(f"evaluate does not know {argument!r}; valid: {VALID}")
    if not top["run"]:
        raise UserError("evaluate needs run=FOLDER, the folder of a finished run (below outputs/runs)")
    batch_size = int(top["batch_size"]) if top["batch_size"].isdigit() else None
    if batch_size == 0 or (batch_size is None and top["batch_size"] != "auto"):
        raise UserError(f"batch_size={top['batch_size']}: give a whole number of images, at least 1, or auto")

    settings = OmegaConf.to_container(OmegaConf.load(config_file("evaluation", top["evaluation"], "evaluation")))
    mode = settings.pop("mode")
    for key, value in further:
        name = key.removeprefix("evaluation.")
        if key.startswith("evaluation.") and name not in settings:
            valid = f"valid with evaluation={top['evaluation']}: {', '.join(settings) or 'no further keys'}"
            robust = "" if mode == "robust" else "; evaluation=robust has more"
            raise UserError(f"{key} is unknown; {valid}{robust}")
        if key.startswith("evaluation."):
            settings[name] = plain_value(key, value)
        elif mode != "robust":
            raise UserError(f"{key} is for evaluation=robust, not evaluation={top['evaluation']}")
    chosen = {"folder": Path(top["run"]), "accelerator": top["accelerator"], "root": top["root"]}
    if mode != "robust":
        return EvaluationOptions(**chosen, batch_size=batch_size)
    robust = checked(settings)
    for key, _ in further:
        if key.startswith("attack.") and key.split(".")[1] not in robust.attacks:
            raise UserError(f"{key}: no such attack in evaluation.attacks=[{','.join(robust.attacks)}]")
        if key.startswith("corruptions.") and robust.corruptions == "none":
            raise UserError(f"{key} is for evaluation.corruptions=generated or files, not none")
    attacks = {name: read_attack(name, robust.epsilon, further) for name in robust.attacks}
    corruptions = None
    if robust.corruptions != "none":
        chosen_seed = {"seed": robust.seed}
        corruptions = read_config(
            "corruptions", robust.corruptions, "evaluation.corruptions", "corruptions.", chosen_seed, further
        )
    return EvaluationOptions(**chosen, batch_size=batch_size, robust=robust, attacks=attacks, corruptions=corruptions)


def plain_value(key: str, text: str) -> Any:
    """`text` as YAML: numbers, true, null, lists; nothing is null."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{key}={text} cannot be read: {' '.join(str(error).split())}") from error


def checked(settings: dict[str, Any]) -> RobustSettings:
    """UserError naming the first key whose value does not fit."""
    if isinstance(settings["attacks"], str):
        settings["attacks"] = [settings["attacks"]]
    try:
        return RobustSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UserError(f"evaluation: {message}") from error
        key = first["loc"][0]
        raise UserError(f"evaluation.{key}={settings[key]}: {message}") from error


def config_file(group: str, name: str, key: str) -> Path:
    """conf/GROUP/NAME.yaml. UserError lists the names there are."""
    names = names_in(group)
    if name not in names:
        further = ", none" if group == "corruptions" else ""
        raise UserError(f"{key}={name} is unknown; valid: {', '.join(names)}{further}")
    return conf_folder() / group / f"{name}.yaml"


def read_attack(name: str, epsilon: float, arguments: list[tuple[str, str]]) -> dict[str, Any]:
    """conf/attack/NAME.yaml; torchattacks-CW is torchattacks.yaml with attack=CW, so that there can be several."""
    file, _, attack = name.partition("-")
    common: dict[str, Any] = {"epsilon": epsilon}
    if file == "torchattacks" and attack:
        common |= {"name": name, "attack": attack}
    else:
        file = name
    return read_config("attack", file, "evaluation.attacks", f"attack.{name}.", common, arguments)


def read_config(
    group: str, name: str, choice: str, prefix: str, common: dict[str, Any], arguments: list[tuple[str, str]]
) -> dict[str, Any]:
    """conf/GROUP/NAME.yaml with what of `common` it has a key for, and with the arguments PREFIX + KEY=VALUE in it.

    `choice`: the key by which the user named the file. UserError for keys that are not in the file and for those that
    it leaves to the user (`???`).
    """
    content = OmegaConf.load(config_file(group, name, choice))
    content.update({key: value for key, value in common.items() if key in content})
    valid = ", ".join(f"{prefix}{key}" for key in content if not key.startswith("_"))
    for key, value in arguments:
        if not key.startswith(prefix):
            continue
        *parents, last = key.removeprefix(prefix).split(".")
        place = OmegaConf.select(content, ".".join(parents)) if parents else content
        names = list(place) if isinstance(place, DictConfig) else None  # `in` denies keys that are left to the user
        if names is None or (names and last not in names):  # an empty mapping takes any key
            raise UserError(f"{key} is unknown; valid: {valid}")
        place[last] = plain_value(key, value)
    if missing := OmegaConf.missing_keys(content):
        raise UserError(f"{prefix}{min(missing)} must be given (with {choice}={name})")
    return OmegaConf.to_container(content, resolve=True)


def names_in(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def help_text() -> str:
    """All keys with their defaults, as the config files explain them."""
    lines = [HELP]
    prefixes = {"evaluation/robust": "evaluation."}
    prefixes |= {f"corruptions/{name}": "corruptions." for name in names_in("corruptions")}
    for name, prefix in prefixes.items():
        text = (conf_folder() / f"{name}.yaml").read_text(encoding="utf-8")
        shown = [line for line in text.splitlines() if line and not line.startswith("_")]
        lines += [f"conf/{name}.yaml", *("  " + (line if line[0] == "#" else prefix + line) for line in shown), ""]
    return "\n".join([*lines, f"attacks (conf/attack): {', '.join(names_in('attack'))}, torchattacks-CLASS"])

"""`relinearize evaluate run=FOLDER ...`: finished runs tested again, and under attacks and corruptions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from rich.console import Console

from relinearize.commands.composing import Count, checked, command_options, composed
from relinearize.commands.jobs import require_all
from relinearize.errors import UserError
from relinearize.evaluation.settings import Evaluation, RobustSettings
from relinearize.evaluation.several_runs import evaluate_each, run_folders

# What the user calls the choice of a file in these groups.
CHOICES = {"attack": "evaluation.attacks", "corruptions": "evaluation.corruptions"}
HELP = ["evaluation=robust", "evaluation.attacks=[pgd]"]


@command_options
class EvaluateOptions:
    """conf/evaluate.yaml."""

    run: str | None
    accelerator: str
    root: str | None
    batch_size: Count | Literal["auto"]

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("evaluate needs run=FOLDER, the folder of a finished run (below outputs/runs)")


def main(arguments: Sequence[str], console: Console | None = None) -> Any:
    """The clean evaluation's numbers, or all robust records; with several runs a list of these."""
    evaluation = read_evaluation(arguments)
    if evaluation.robust is None:
        from relinearize.evaluation.clean import evaluate_clean as evaluate
    else:
        from relinearize.evaluation.robustness import evaluate_robustness as evaluate
    shown = console or Console()

    def one(folder: Path) -> Any:
        return evaluate(replace(evaluation, folder=folder), shown)

    folders = run_folders(str(evaluation.folder))
    return one(folders[0]) if len(folders) == 1 else evaluate_each(folders, one)


def read_evaluation(arguments: Sequence[str]) -> Evaluation:
    """UserError for unknown keys and values, and for a missing run.

    The config is composed twice: `evaluation.attacks` and `evaluation.corruptions` say which files belong to it.
    """
    words = [*(HELP if {"-h", "--help"} & set(arguments) else []), *arguments]
    robust = robust_settings([word for word in words if word.startswith(("evaluation=", "evaluation."))])
    further = [word for word in words if word.startswith(("attack.", "corruptions."))]
    added = []
    if robust is not None:
        check_named(further, robust)
        added = chosen_files(robust)
    elif further:
        raise UserError(f"{further[0]} is for evaluation=robust")
    # The attack's own arguments are a mapping that takes any key.
    words = [f"++{word}" if word in further and ".arguments." in word else word for word in words]
    config = composed("evaluate", [*added, *words], EvaluateOptions, called=CHOICES)
    options = checked(EvaluateOptions, config)
    require_all(config)
    nodes = OmegaConf.to_container(config, resolve=True)
    return Evaluation(
        folder=Path(options.run),
        accelerator=options.accelerator,
        root=options.root,
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        robust=robust,
        attacks=nodes.get("attack", {}),
        corruptions=nodes.get("corruptions") or None,
    )


def robust_settings(words: Sequence[str]) -> RobustSettings | None:
    """None for a clean evaluation."""
    try:
        node = composed("evaluate", words).evaluation
    except UserError as error:
        more = "" if "evaluation=robust" in words else "; evaluation=robust has more"
        raise UserError(f"{error}{more}") from error
    if node.mode != "robust":
        return None
    return checked(RobustSettings, OmegaConf.masked_copy(node, [key for key in node if key != "mode"]), "evaluation.")


def check_named(words: Sequence[str], robust: RobustSettings) -> None:
    """UserError for settings of attacks and corruptions that are not part of the evaluation."""
    for word in words:
        group, name = word.partition("=")[0].split(".")[:2]
        if group == "attack" and name not in robust.attacks:
            raise UserError(f"{word}: no such attack in evaluation.attacks=[{','.join(robust.attacks)}]")
        if group == "corruptions" and robust.corruptions == "none":
            raise UserError(f"{word} is for evaluation.corruptions=generated or files, not none")


def chosen_files(robust: RobustSettings) -> list[str]:
    """Overrides that add the files of the attacks and corruptions.

    torchattacks-CW is torchattacks.yaml with attack=CW, so that there can be several.
    """
    words = []
    for name in robust.attacks:
        file, _, attack = name.partition("-")
        several = file == "torchattacks" and attack
        words += [f"+attack@attack.{name}={file if several else name}", f"attack.{name}.epsilon={robust.epsilon}"]
        words += [f"attack.{name}.name={name}", f"attack.{name}.attack={attack}"] if several else []
    return [*words, f"+corruptions={robust.corruptions}"]

"""`relinearize evaluate run=FOLDER ...`: finished runs tested again, and under attacks and corruptions."""

import glob
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from rich.console import Console

from relinearize.commands.composing import Count, checked, command_options, composed
from relinearize.commands.jobs import require_all
from relinearize.errors import UserError, one_line, user_error_behind
from relinearize.evaluation.settings import Evaluation, RobustSettings
from relinearize.files import DAMAGED, UNFINISHED
from relinearize.records.run import RECORD_FILE

# What the user calls the choice of a file in these groups.
CHOICES = {"attack": "evaluation.attacks", "corruptions": "evaluation.corruptions"}
HELP = ["evaluation=robust", "evaluation.attacks=[pgd]"]


@command_options
class EvaluateOptions:
    """conf/evaluate.yaml."""

    run: str | None
    accelerator: str
    root: str | None
    trust: bool
    batch_size: Count | Literal["auto"]

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("evaluate needs run=FOLDER, the folder of a finished run (below outputs/runs)")


def main(arguments: Sequence[str], console: Console | None = None) -> Any:
    """The clean evaluation's numbers, or all robust records; with several runs a list of these."""
    evaluation = read_evaluation(arguments)
    console, folders = console or Console(), run_folders(str(evaluation.folder))
    if evaluation.robust is None:
        from relinearize.evaluation.clean import evaluate_clean

        evaluate = partial(evaluate_clean, console=console)
    else:
        from relinearize.evaluation.robustness import evaluate_robustness
        from relinearize.report.tables.terminal import print_evaluation

        evaluate = partial(evaluate_robustness, show=partial(print_evaluation, console=console))
    if len(folders) == 1:
        return evaluate(replace(evaluation, folder=folders[0]))
    return evaluate_each(folders, lambda folder: evaluate(replace(evaluation, folder=folder)))


def run_folders(text: str) -> list[Path]:
    """The folders that `run=` names: one, several with commas between, or patterns that match finished runs.

    A folder that is named is taken as it is; of what a pattern matches only folders with a record.
    """
    if Path(text).is_dir():
        return [Path(text)]
    folders: dict[Path, None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if glob.has_magic(part) and not Path(part).is_dir():
            # Leading folders that exist are taken as they are named, as in a[b]/runs/*.
            there = next((folder for folder in Path(part).parents if folder.is_dir()), Path())
            found = sorted(glob.glob(str(Path(part).relative_to(there)), root_dir=there))
            matched = [there / path for path in found if (there / path / RECORD_FILE).is_file()]
            matched = [folder for folder in matched if folder.suffix not in (DAMAGED, UNFINISHED)]
            if not matched:
                raise UserError(f"run={part} matches no finished run (a folder with {RECORD_FILE})")
            folders |= dict.fromkeys(matched)
        else:
            folders[Path(part)] = None
    if not folders:
        raise UserError(f"run={text} names no folder")
    return list(folders)


def evaluate_each(folders: list[Path], evaluate: Callable[[Path], Any]) -> list[Any]:
    """`evaluate` of each folder. A failure does not stop the others.

    At the end UserError if there was any, after a line for each.
    """
    results, failures = [], []
    for folder in folders:
        try:
            results.append(evaluate(folder))
        except Exception as error:
            cause = user_error_behind(error)
            if cause is None:  # no mistake of the user's: where it happened is worth seeing
                traceback.print_exc()
            failures.append(f"{folder}: {one_line(cause or error)}")
    for failure in failures:
        print(f"relinearize: {failure}", file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(folders)} runs could not be evaluated, see above")
    return results


def read_evaluation(arguments: Sequence[str]) -> Evaluation:
    """UserError for unknown keys and values, and for a missing run.

    The config is composed twice: `evaluation.attacks` and `evaluation.corruptions` say which files belong to it.
    """
    words = [*(HELP if {"-h", "--help"} & set(arguments) else []), *arguments]
    flags = {"-cd", "--config-dir"}
    own = [word for before, word in pairwise(["", *words]) if flags & {before, word.partition("=")[0]}]
    robust = robust_settings([*own, *beginning(words, "evaluation=", "evaluation.")])
    further = beginning(words, "attack.", "corruptions.")
    added = []
    if robust is not None:
        check_named(further, robust)
        added = chosen_files(robust)
    elif further:
        raise UserError(f"{further[0]} is for evaluation=robust")
    # The attack's own arguments are a mapping that takes any key.
    for place, word in enumerate(words):
        if word in further and ".arguments." in word and not word.startswith("~"):
            words[place] = f"++{word.lstrip('+')}"
    config = composed("evaluate", [*added, *words], EvaluateOptions, called=CHOICES)
    options = checked(EvaluateOptions, config)
    require_all(config)
    nodes = OmegaConf.to_container(config, resolve=True)
    return Evaluation(
        folder=Path(options.run),
        accelerator=options.accelerator,
        root=options.root,
        trust=options.trust,
        batch_size=None if options.batch_size == "auto" else options.batch_size,
        robust=robust,
        attacks=nodes.get("attack", {}),
        corruptions=nodes.get("corruptions") or None,
    )


def beginning(words: Sequence[str], *keys: str) -> list[str]:
    """Those of `words` whose key begins so, with or without the +, ++ or ~ of Hydra before it."""
    return [word for word in words if word.lstrip("+~").startswith(keys)]


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
        group, name = word.lstrip("+~").partition("=")[0].split(".")[:2]
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

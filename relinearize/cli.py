"""The command line: the table of commands, and how errors end the program.

Imports Hydra and nothing heavier: launchers import this module in every worker, and `--cfg job` must answer at once.
"""

import io
import os
import select
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from relinearize import __version__
from relinearize.commands.jobs import fail, find_users_modules
from relinearize.commands.words import NO_NAME, of_agent, with_home
from relinearize.conf_folder import conf_folder
from relinearize.errors import UserError, one_line, user_error_behind
from relinearize.files import own_folder, temporary_folder

# Each is a module of relinearize/commands with a function main(arguments).
COMMANDS = {
    "run": ("[KEY=VALUE ...]", "train, search, fine-tune and test one linearized network; -m: one per combination"),
    "status": ("[SWEEP]", "the runs of a sweep, by its name or folder: states, times and ETA"),
    "report": ("FOLDER ...", "tables, figures and a page from all runs below the folders"),
    "count": ("[backbone=...]", "the ReLUs of a network, site by site, in both conventions"),
    "evaluate": ("run=FOLDER", "test a finished run again; evaluation=robust: under attacks and corruptions"),
    "export": ("run=FOLDER", "the network as a bundle for engines of private inference; onnx=true: as ONNX, too"),
    "cost": ("run=FOLDER", "what private inference with it costs, predicted: time, bytes, messages"),
    "infer": ("bundle=FOLDER", "the bundle's network under real two-party computation: latency and bytes"),
}
USAGE = "\n".join(
    [
        "usage: relinearize COMMAND ...",
        "",
        *(f"  {f'{name} {words}':24}{what}" for name, (words, what) in COMMANDS.items()),
        "  --version",
        "",
        "`relinearize COMMAND --help` lists the keys of a command, `--cfg job` prints its config.",
    ]
)
# Hydra's names of those launchers that are packages of their own, and the extra that each is in.
LAUNCHER_PLUGINS = {"joblib": "launchers", "submitit_local": "launchers", "submitit_slurm": "launchers", "ray": "ray"}


def main() -> None:
    """Entry point. Errors of the user are one line on standard error and exit status 1."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the program
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold any bytes, a terminal may know few letters
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")
    if os.path.expanduser("~") == "~" and own_folder(temporary_folder()):
        # A user who is a number without a name, as in containers: packages look for their settings and caches at home.
        os.environ["HOME"] = str(temporary_folder())
    arguments = of_agent([with_home(word) for word in sys.argv[1:]])
    if arguments == ["--version"]:
        print(f"relinearize {__version__}")
        return
    if not arguments or arguments[0] not in COMMANDS:
        wanted = bool(arguments) and arguments[0] not in ("-h", "--help")
        print(USAGE, file=sys.stderr if wanted or not arguments else sys.stdout)
        if wanted:
            print(
                f"\nrelinearize: error: unknown command {arguments[0]}; valid: {', '.join(COMMANDS)}", file=sys.stderr
            )
        sys.exit(2 if wanted or not arguments else 0)
    # Hydra reads fifty files, and each of them twice: with libyaml that takes a fraction of the time.
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Hydra would print its own shortened traceback; with this it raises and the lines below decide.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        find_users_modules()
        refuse_words(arguments[1:])
        import_module(f"relinearize.commands.{arguments[0]}").main(arguments[1:])
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:  # a launcher may say what becomes of its jobs
        usual = "the same command goes on from the last checkpoint" if arguments[0] in ("run", "evaluate") else ""
        goes_on = str(interrupt) or usual
        print(f"relinearize: interrupted{f'; {goes_on}' if goes_on else ''}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not reader_left():
            traceback.print_exc()
        sys.exit(1)
    except Exception as error:
        if cause := user_error_behind(error):
            fail(str(cause))
        if isinstance(error, (HydraException, OmegaConfBaseException)) or raised_by_hydra(error):
            fail(explained(error, *arguments))
        if isinstance(error, yaml.YAMLError):  # of a config file; says which and where
            fail(one_line(error))
        traceback.print_exc()
        sys.exit(1)


def refuse_words(arguments: Sequence[str]) -> None:
    """UserError for what Hydra would not explain: empty words, and null, bools and numbers as choices of a group."""
    for word in arguments:
        if not word:
            raise UserError("an empty word was given; was it a shell variable that is not set?")
        key, _, value = word.lstrip("+").partition("=")
        if word.lstrip("+").startswith("debug="):  # as other programs that use Hydra call it
            raise UserError(f"{word} is unknown; give scale=debug: seconds for each stage")
        files = sorted(file.stem for file in (conf_folder() / key.partition("@")[0]).glob("*.yaml"))
        if not key or not files or (key, value) == ("experiment", "null"):
            continue
        for choice in value.split(","):
            if NO_NAME.fullmatch(choice):
                number = f"; a number of ReLUs: budget.relus={choice}" if key == "budget" else ""
                raise UserError(f"{key}={choice} is unknown; valid: {', '.join(files)}{number}")


def reader_left() -> bool:
    """Whether nobody reads standard output any more (`| head`): no error of ours. What is left of it goes nowhere."""
    output = select.poll()
    output.register(sys.stdout, select.POLLOUT)
    left = any(event & select.POLLERR for _, event in output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
    return left


def raised_by_hydra(error: Exception) -> bool:
    """Whether Hydra itself refused what was typed, with an error of Python's, as it does for `=3`."""
    raised = list(traceback.walk_tb(error.__traceback__))[-1][0]
    return isinstance(error, ValueError) and raised.f_globals["__name__"].startswith("hydra.")


def explained(error: Exception, command: str, *words: str) -> str:
    """Hydra's message in one line; for an unknown choice or key among `words` with those that exist."""
    message = " ".join(str(error).split())
    if isinstance(error, MissingConfigException):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and name in LAUNCHER_PLUGINS:
            extra = LAUNCHER_PLUGINS[name]
            return f"the launcher {name} is not installed; it comes with pip install -e '.[{extra}]'"
        if error.options:
            return f"{group}={name} is unknown; valid: {', '.join(error.options)}"
    if "full_key: hydra.run.dir" in message:  # where Hydra itself reads ${output}
        return "output=null: must be a text"
    from relinearize.commands.composing import unknown, unknown_word

    word = unknown_word(error, words)
    if word is None:
        return message
    try:
        return f"{unknown(command, word, words, 'config')}; all keys: relinearize {command} --help"
    except UserError:  # a choice from a --config-dir, which says what keys there are
        return message

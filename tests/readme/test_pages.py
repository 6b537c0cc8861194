"""The pages of the documentation: links lead somewhere, and command lines are ones that the program takes."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from relinearize.commands import composing
from relinearize.commands.cost import CostOptions
from relinearize.commands.evaluate import read_evaluation
from relinearize.commands.export import ExportOptions
from relinearize.commands.report import composed_report
from relinearize.commands.status import StatusOptions
from relinearize.commands.words import flags_first
from relinearize.conf_folder import conf_folder
from relinearize.private_inference.engine.options import InferOptions

ROOT = Path(__file__).parents[2]
DOCS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:    )?relinearize (run|count|cost|evaluate|export|infer|report|status) (.*)$", re.MULTILINE)
TAKEN = {
    "cost": lambda words: composing.checked(CostOptions, composing.composed("cost", words, CostOptions)),
    "evaluate": read_evaluation,
    "export": lambda words: composing.checked(ExportOptions, composing.composed("export", words, ExportOptions)),
    "infer": lambda words: composing.checked(InferOptions, composing.composed("infer", words, InferOptions)),
    "report": lambda words: composed_report([word.replace("--against-paper", "against_paper=true") for word in words]),
    "status": lambda words: composing.composed("status", words, StatusOptions, positional="sweep"),
}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(anchor + (f"-{found.count(anchor)}" if anchor in found else ""))
    return set(found)


@pytest.mark.parametrize("page", [*DOCS, "CONTRIBUTING.md", "results/README.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(place), f"{page}: {link}"


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Command and words of each line that is typed; those of the tested examples name files of their own."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = [(command, shlex.split(words, comments=True)) for command, words in COMMAND.findall(text)]
    return [(command, words) for command, words in found if "--config-dir" not in words]


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in DOCS) > 80


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in DOCS if commands(page)])
def test_commands_compose(page: str) -> None:
    """Each of the runs of a sweep. What only a launcher knows is composed where its plugin is installed."""
    for command, words in commands(page):
        if command in TAKEN:
            TAKEN[command](words)
            continue
        overrides = [word for word in flags_first(words) if not word.startswith("-")]
        if any(word.startswith("hydra.launcher.") for word in overrides):
            pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        parsed = OverridesParser.create().parse_overrides(overrides)
        (jobs,) = BasicSweeper.split_arguments(parsed, None) if "-m" in words else [[overrides]]
        for job in jobs:
            try:
                with initialize_config_dir(str(conf_folder()), version_base="1.3"):
                    compose("config", job, return_hydra_config=True)
            except Exception as error:
                raise AssertionError(f"{page}: relinearize {command} {' '.join(words)}") from error

"""A progress bar on a terminal, nothing elsewhere; always on stderr, so that piped output stays clean."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def download_progress() -> Progress:
    return _progress(DownloadColumn(), TransferSpeedColumn())


def image_progress() -> Progress:
    return _progress(MofNCompleteColumn())


def _progress(*amounts: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

"""Where the config files lie. As light as the command line, which needs it first of all."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def conf_folder() -> Path:
    """conf/ inside the installed package, or beside it in a source checkout."""
    packaged = PACKAGE / "conf"
    return packaged if packaged.is_dir() else PACKAGE.parent / "conf"

"""A page as a browser has drawn it."""

import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dumped(page: str, reader: str, folder: Path) -> str:
    """The document after its scripts and `reader`, a script element at its end; `folder`: for the browser's files."""
    file = folder / "page.html"
    file.write_text(page.replace("</body>", reader + "</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    options += ["--disable-background-networking", f"--user-data-dir={folder / 'browser'}", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, file.as_uri()], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout

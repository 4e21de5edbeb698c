"""Git checkouts for tests."""

import subprocess
from pathlib import Path


def commit_all(folder: Path) -> None:
    """Makes a folder a git checkout whose only commit has all that is in it."""
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)

"""Where a row of results comes from: the commit, the date, the hardware."""

import datetime
import os
import platform
import subprocess
from pathlib import Path

import jax


def provenance() -> dict[str, str]:
    """Commit (with a + if code differs from it), date and hardware of this run."""

    def git(*words: str) -> str:
        root = Path(__file__).resolve().parent
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    devices = jax.devices()
    kind = devices[0].device_kind
    hardware = f"{len(devices)} x {kind}" if kind != "cpu" else f"{_cpu_count()} CPU cores ({_cpu_name()})"
    commit = git("rev-parse", "HEAD")
    # Not tables and results: those that a run before this one has written don't change what it does.
    changed = commit and git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
    return {
        "commit": commit + ("+" if changed else ""),
        "date": datetime.date.today().isoformat(),
        "hardware": hardware,
    }


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

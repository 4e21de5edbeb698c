"""launch/gke: the manifest has the shape of a slice, its command training's flags, its script the exit codes."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from asyncthink_jax import copies

ROOT = Path(__file__).resolve().parents[2]
GKE = ROOT / "launch" / "gke"


def jobset() -> dict:
    [document] = yaml.safe_load_all((GKE / "jobset.yaml").read_text())
    return document


def pod() -> dict:
    return job()["template"]["spec"]


def job() -> dict:
    return jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]


def flags_of_training() -> set[str]:
    source = (ROOT / "asyncthink_jax" / "train.py").read_text()
    return {f"--{name}" for name in re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source)}


def test_there_is_a_pod_for_each_vm_of_the_slice():
    topology = pod()["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    rows, columns = map(int, topology.split("x"))
    chips = pod()["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job()["parallelism"] == job()["completions"] == rows * columns // chips


def test_the_jobset_restarts_all_pods_but_not_for_bad_input():
    assert jobset()["kind"] == "JobSet" and jobset()["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert pod()["restartPolicy"] == "Never" and job()["backoffLimit"] == 0
    policy = jobset()["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 10
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert job()["podFailurePolicy"]["rules"][0]["onExitCodes"] == (
        {"containerName": pod()["containers"][0]["name"], "operator": "In", "values": [2, 3]}
    )


def test_training_has_half_a_minute_to_save():
    assert pod()["terminationGracePeriodSeconds"] >= 30


def test_the_command_has_flags_of_training_and_files_of_the_checkout():
    [container] = pod()["containers"]
    [script] = container["command"]
    assert os.access(ROOT / script, os.X_OK)
    given = dict(word.split("=") for word in container["args"])
    assert given.keys() == {"--config", "--workdir"} <= flags_of_training()
    assert (ROOT / given["--config"]).is_file()
    assert given["--workdir"].startswith("gs://BUCKET/")


def test_the_xpk_lines_have_flags_that_xpk_has():
    known = {  # of xpk 1.16: `xpk cluster create` and delete, `xpk workload create` and delete
        *("cluster", "workload", "tpu-type", "num-slices", "spot", "zone", "project", "docker-image", "max-restarts"),
        *("restart-on-exit-codes", "termination-grace-period-seconds", "command"),
    }
    lines = re.findall(r"^    xpk (.*(?:\\\n.*)*)", (GKE / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert set(re.findall(r"(?<!\S)--([a-z-]+)", re.sub(r'"[^"]*"', "", line))) <= known


def test_the_xpk_line_has_flags_of_training_and_files_of_the_checkout():
    command = re.search(r'--command="(\S+) (.*?)"', (GKE / "README.md").read_text())
    assert os.access(ROOT / command[1], os.X_OK)
    given = dict(word.split("=") for word in command[2].split())
    assert given.keys() <= flags_of_training()
    assert (ROOT / given["--config"]).is_file()


def test_the_pods_have_no_rights_on_their_node():
    assert pod()["securityContext"]["runAsNonRoot"] is True and pod()["securityContext"]["runAsUser"] > 0
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod().keys()
    for container in pod()["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_pods_can_write_where_the_image_says_that_they_write():
    image = (GKE / "Dockerfile").read_text()
    assert f"\nUSER {pod()['securityContext']['runAsUser']}\n" in image
    [settings] = re.findall(r"^ENV (.*)", image, re.MULTILINE)
    named = dict(word.split("=") for word in settings.split())
    writable = {mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"]}
    assert {volume["name"] for volume in pod()["volumes"] if "emptyDir" in volume} == {
        mount["name"] for mount in pod()["containers"][0]["volumeMounts"]
    }
    assert writable == {"/tmp", named["HOME"], named["TMPDIR"]}
    assert named[copies.FOLDER].startswith(named["HOME"] + "/")


def test_the_image_is_made_of_pinned_parts():
    image = (GKE / "Dockerfile").read_text()
    assert re.search(r"^FROM \S+:[\d.]+-slim-\w+@sha256:[0-9a-f]{64}$", image, re.MULTILINE)
    assert all("--constraint launch/requirements.txt" in line for line in image.splitlines() if "pip install" in line)
    readme = (GKE / "README.md").read_text()
    assert "/latest/" not in readme and re.search(r"pip install 'xpk==[\d.]+'", readme)


def test_the_pods_are_reached_by_each_other_alone():
    [policy] = yaml.safe_load_all((GKE / "networkpolicy.yaml").read_text())
    label = {"jobset.sigs.k8s.io/jobset-name": jobset()["metadata"]["name"]}
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["podSelector"] == {"matchLabels": label}
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": label}}]}]
    readme = (GKE / "README.md").read_text()
    assert "launch/gke/networkpolicy.yaml" in readme and "--enable-dataplane-v2" in readme, "else it has no effect"


@pytest.mark.parametrize("page", ["launch/README.md", "launch/gke/README.md"])
def test_no_firewall_rule_lets_everybody_in(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    for line in re.findall(r"gcloud compute firewall-rules create .*", text):
        assert "--source-ranges=" in line and "0.0.0.0/0" not in line
    assert "8482" in text, "which ports have to be closed"


def test_the_image_installs_the_extra_for_tpus():
    [extra] = re.findall(r"'\.\[(\w+)\]'", (GKE / "Dockerfile").read_text())
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


# Stands for python: waits for the order to end, or ends with the code in its flag --exit=CODE.
TRAINING = f"""#!{sys.executable} -S
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"saved\\n"), sys.exit(0)))  # it may come within a print
print(*sys.argv[1:], flush=True)
if sys.argv[-1].startswith("--exit="):
    sys.exit(int(sys.argv[-1][7:]))
time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    python = tmp_path / "python"
    python.write_text(TRAINING)
    python.chmod(0o755)
    return {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}


@pytest.mark.parametrize("code", [0, 2, 7])
def test_the_script_ends_as_training_does(environment, code):
    command = [GKE / "train.sh", "--workdir=a b", f"--exit={code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert done.stdout == f"-m asyncthink_jax.train --workdir=a b --exit={code}\n"


def test_a_training_that_was_asked_to_end_is_not_taken_for_finished(environment):
    with subprocess.Popen([GKE / "train.sh"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "-m asyncthink_jax.train\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert said == "saved\n", "once, since a second signal would end it unsaved"
    assert process.returncode == 143

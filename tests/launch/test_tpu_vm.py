"""The commands of launch/tpu_vm.sh against a gcloud that records its arguments and takes VMs away."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from fake_cloud import TRAIN, as_lines, eventually

# ------------------------------------------------------------------------------------------------------------- create


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_create_takes_the_runtime_version_of_the_type(cloud, kind, version):
    cloud("create", "--type", kind, "--spot")
    assert as_lines(cloud.calls("tpu-vm", "create")) == [
        f"tpu-vm create demo --accelerator-type={kind} --version={version} --spot --zone=us-west4-a --quiet"
    ]


def test_create_says_what_is_billed_and_how_that_ends(cloud):
    said = cloud("create", "--type=v5litepod-16").stderr
    assert "is billed until: launch/tpu_vm.sh delete --name demo --zone us-west4-a" in said


def test_create_goes_on_with_a_vm_that_is_there(cloud):
    cloud("create", "--type", "v5litepod-16")
    assert "demo exists already: READY" in cloud("create", "--type", "v5litepod-16").stderr
    assert len(cloud.calls("tpu-vm", "create")) == 1


def test_create_does_not_take_a_vm_of_another_type_for_its_own(cloud):
    cloud("create", "--type", "v5litepod-16")
    assert "demo exists as v5litepod-16, not v5litepod-64" in cloud.refused("create", "--type", "v5litepod-64")


def test_create_makes_a_preempted_vm_again(cloud):
    cloud("create", "--type", "v5litepod-16", "--spot")
    cloud.state(vms={"demo": ["PREEMPTED", "v5litepod-16"]})
    cloud("create", "--type", "v5litepod-16", "--spot")
    made = [words[1] for words in cloud.calls("tpu-vm") if words[1] in ("create", "delete")]
    assert made == ["create", "delete", "create"]


def test_a_queued_resource_is_waited_for_until_it_is_active(cloud):
    look = "queued-resources describe"
    states = ["WAITING_FOR_RESOURCES\n", "WAITING_FOR_RESOURCES\n", "PROVISIONING\n"]
    cloud.rules(*[{"match": look, "skip": 1 if i == 0 else 0, "out": state} for i, state in enumerate(states)])
    said = cloud("create", "--type", "v6e-16", "--queued", "--spot").stderr
    assert as_lines(cloud.calls("queued-resources", "create")) == [
        "queued-resources create demo --node-id=demo --accelerator-type=v6e-16 "
        "--runtime-version=v2-alpha-tpuv6e --spot --zone=us-west4-a --quiet"
    ]
    assert said.count("demo is WAITING_FOR_RESOURCES; waiting") == 1
    assert said.count("demo is PROVISIONING; waiting") == 1


def test_a_queued_resource_that_fails_while_it_is_waited_for_is_told(cloud):
    cloud.rules({"match": "queued-resources describe", "skip": 1, "out": "FAILED\n"})
    assert "demo became FAILED" in cloud.refused("create", "--type", "v6e-16", "--queued")


def test_several_slices_are_one_queued_resource(cloud):
    cloud("create", "--type", "v5p-16", "--slices", "2")
    assert as_lines(cloud.calls("queued-resources", "create")) == [
        "queued-resources create demo --node-count=2 --node-prefix=demo --accelerator-type=v5p-16 "
        "--runtime-version=v2-alpha-tpuv5 --zone=us-west4-a --quiet"
    ]
    assert [words[2] for words in cloud.calls("tpu-vm", "describe")] == ["demo-0", "demo-1"]


def test_what_was_queued_for_is_found_without_saying_so_again(cloud):
    cloud("create", "--type", "v5p-16", "--slices", "2")
    assert "demo: READY, v5p-16" in cloud("status").stdout
    cloud.state(queues={"demo": "WAITING_FOR_RESOURCES"}, vms={})
    done = cloud("status")
    assert "demo: WAITING_FOR_RESOURCES" in done.stdout and "is billed until" in done.stderr
    cloud.state(queues={"demo": "ACTIVE"}, vms={f"demo-{i}": ["READY", "v5p-16"] for i in range(2)})
    assert "exists already: READY" in cloud("create", "--type", "v5p-16").stderr


def test_delete_leaves_neither_a_queued_resource_nor_a_vm_beside_it(cloud):
    cloud("create", "--type", "v6e-16")
    cloud.state(queues={"demo": "WAITING_FOR_RESOURCES"}, nodes={"demo": []})
    said = cloud("delete").stderr
    assert "deleted the queued resource demo with its VMs" in said and "deleted the VM demo" in said
    assert json.loads((cloud.folder / "state.json").read_text())["vms"] == {}


def test_the_vms_act_as_the_account_that_is_named_with_the_scopes_that_are_named(cloud):
    account, scopes = "trainer@my-project.iam.gserviceaccount.com", "https://www.googleapis.com/auth/cloud-platform"
    done = cloud("create", "--type", "v6e-16", "--service-account", account, "--scopes", scopes)
    assert {f"--service-account={account}", f"--scopes={scopes}"} <= set(cloud.calls("tpu-vm", "create")[0])
    assert "default service account" not in done.stderr
    cloud("create", "--slices", "2", "--name", "two", TPU_TYPE="v6e-16", TPU_SERVICE_ACCOUNT=account, TPU_SCOPES=scopes)
    assert {f"--service-account={account}", f"--scopes={scopes}"} <= set(cloud.calls("queued-resources", "create")[0])


def test_without_an_account_it_is_said_whose_rights_the_vms_have(cloud):
    done = cloud("create", "--type", "v6e-16")
    assert "demo acts as the project's default service account; --service-account names one" in done.stderr
    assert not any(word.startswith(("--service", "--scopes")) for word in cloud.calls("tpu-vm", "create")[0])


def test_settings_may_stand_in_the_environment(cloud):
    cloud("create", TPU_TYPE="v6e-16", TPU_SPOT="1", TPU_PROJECT="other", TPU_VERSION="mine")
    words = cloud.calls("tpu-vm", "create")[0]
    assert {"--accelerator-type=v6e-16", "--spot", "--project=other", "--version=mine"} <= set(words)


def test_a_flag_goes_before_the_environment(cloud):
    cloud("create", "--name", "this", "--type", "v6e-8", TPU_TYPE="v6e-16")
    assert cloud.calls("tpu-vm", "create")[0][2:4] == ["this", "--accelerator-type=v6e-8"]


# -------------------------------------------------------------------------------------------------------------- setup


def test_setup_copies_the_tracked_files_as_they_are_now_to_all_workers(cloud):
    cloud("create", "--type", "v5litepod-16")
    config, untracked = cloud.checkout / "experiments" / "tiny.py", cloud.checkout / "secret.txt"
    committed = config.read_text()
    try:
        config.write_text("# changed since\n")
        untracked.write_text("not for the VM")
        cloud("setup")
    finally:
        config.write_text(committed)
        untracked.unlink()
    for worker in "01":
        home = cloud.folder / "vms" / "demo" / worker
        assert (home / "asyncthink_jax" / "experiments" / "tiny.py").read_text() == "# changed since\n"
        with tarfile.open(home / "asyncthink_jax.tar.gz") as archive:
            assert "launch/on_tpu_vm.sh" in archive.getnames()
            assert "secret.txt" not in archive.getnames()


def test_setup_installs_the_package_with_its_tpu_extra_on_each_worker(cloud):
    cloud("create", "--type", "v5litepod-16")
    cloud("setup")
    installs = [line for line in (cloud.folder / "uv").read_text().splitlines() if line.startswith("pip install")]
    homes = [cloud.folder / "vms" / "demo" / worker for worker in "01"]
    assert installs == [
        f"pip install --quiet --python {home}/asyncthink_venv/bin/python "
        f"--constraint {home}/asyncthink_jax/launch/requirements.txt --editable {home}/asyncthink_jax[tpu]"
        for home in homes
    ]


def test_setup_twice_replaces_the_checkout_and_keeps_the_environment(cloud):
    cloud.ready()
    home = cloud.folder / "vms" / "demo" / "0"
    (home / "asyncthink_jax" / "removed_since.py").touch()
    cloud("setup")
    assert not (home / "asyncthink_jax" / "removed_since.py").exists()
    assert (cloud.folder / "uv").read_text().count("venv --quiet") == 2  # one for each worker


def test_setup_leaves_a_checkout_alone_that_is_trained_from(cloud):
    cloud.ready()(*TRAIN)
    assert "worker demo-w-0 trains; 'tpu_vm.sh stop' ends that" in cloud.refused("setup")


def test_setup_reaches_every_slice(cloud):
    cloud("create", "--type", "v6e-16", "--slices", "2")
    cloud("setup", "--slices", "2")
    assert all((cloud.folder / "vms" / f"demo-{i}" / "1" / "asyncthink_venv").is_dir() for i in range(2))


def test_setup_without_a_vm_says_what_makes_one(cloud):
    assert cloud.refused("setup") == "error: demo is ABSENT, not READY; launch/tpu_vm.sh create makes it"


# -------------------------------------------------------------------------------------------------------------- train


def test_train_runs_on_all_workers_from_the_checkout_into_the_bucket(cloud):
    cloud.ready()(*TRAIN)
    module = ["-m", "asyncthink_jax.train", "--config=experiments/tiny.py", "--workdir=gs://mine/demo/"]
    homes = [cloud.folder / "vms" / "demo" / worker for worker in "01"]
    assert eventually(lambda: len(cloud.trained()) == 2)
    assert cloud.trained() == [
        {"home": str(home), "arguments": module, "folder": f"{home}/asyncthink_jax"} for home in homes
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")
def test_a_training_lives_through_a_hangup_of_the_session_that_started_it(cloud):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored from the start
    try:
        cloud.ready()(*TRAIN)
    finally:
        signal.signal(signal.SIGHUP, before)
    for file in (cloud.folder / "vms").glob("*/*/asyncthink_train/pid"):
        training = Path("/proc", file.read_text().strip(), "status").read_text()
        supervisor = Path("/proc", re.search(r"^PPid:\s*(\d+)", training, re.MULTILINE)[1], "status").read_text()
        for status in (training, supervisor):
            ignored = int(re.search(r"^SigIgn:\s*(\w+)", status, re.MULTILINE)[1], 16)
            assert ignored >> (signal.SIGHUP - 1) & 1


WORDS = [
    "two words",
    "it's",
    'say "hi"',
    "$(touch hacked)",
    "a;b&c|d",
    "back\\slash",
    "",
    "*",
    "two\nlines",
    "~",
    "-- x",
]


def test_arguments_reach_training_as_they_were_given(cloud):
    given = WORDS + [f"--config.name={word}" for word in WORDS]
    cloud.ready()(*TRAIN, "--", *given)
    assert eventually(lambda: len(cloud.trained()) == 2)
    for training in cloud.trained():
        assert training["arguments"][4:] == given
    assert not list(cloud.folder.rglob("hacked"))


def test_the_config_may_be_named_by_its_whole_path(cloud):
    config = cloud.checkout / "experiments" / "tiny.py"
    cloud.ready()("train", "--bucket", "gs://mine", "--config", str(config))
    assert eventually(lambda: len(cloud.trained()) == 2)
    assert cloud.trained()[0]["arguments"][2] == "--config=experiments/tiny.py"


def test_train_refuses_to_train_twice_on_a_vm(cloud):
    cloud.ready()(*TRAIN)
    assert cloud.refused(*TRAIN) == (
        "error: demo trains already, one training a VM; see launch/tpu_vm.sh logs -f --name demo --zone us-west4-a"
    )
    assert eventually(lambda: len(cloud.trained()) == 2)


def test_train_before_setup_says_so(cloud):
    cloud("create", "--type", "v5litepod-16")
    assert "setup does that" in cloud.refused(*TRAIN)


def test_a_training_that_one_worker_cannot_start_is_stopped_on_the_others(cloud):
    cloud.ready()
    (cloud.folder / "vms" / "demo" / "1" / "asyncthink_venv" / "bin" / "python").unlink()
    assert "worker demo-w-1 is not set up" in cloud.refused(*TRAIN)
    assert "worker demo-w-0: stopped" in cloud("status").stdout


def test_a_bucket_that_is_not_there_is_told_before_training(cloud):
    cloud.ready().rules(
        {"match": "storage buckets", "code": 1, "err": "ERROR: (gcloud.storage.x) gs://mine not found\n"}
    )
    assert cloud.refused(*TRAIN) == "error: bucket gs://mine: gs://mine not found"
    assert not cloud.trained()


# ------------------------------------------------------------------------------------------- status, logs, ssh, stop


def test_status_tells_the_vm_the_training_and_the_last_line_of_the_log(cloud):
    cloud.ready()(*TRAIN)
    assert eventually(lambda: "running | training, until_stopped" in cloud("status").stdout)
    assert cloud("status").stdout.splitlines() == [
        "demo: READY, v5litepod-16",
        "worker demo-w-0: running | training, until_stopped",
        "worker demo-w-1: running | training, until_stopped",
    ]


@pytest.mark.parametrize(("code", "told"), [("0", "done"), ("2", "failed 2"), ("137", "failed 137")])
def test_status_tells_how_training_ended(cloud, code, told):
    cloud.ready().trainings(code)
    cloud(*TRAIN)
    assert eventually(lambda: f"worker demo-w-0: {told} | training, {code}" in cloud("status").stdout)


def test_status_tells_an_interrupted_training_from_a_finished_one(cloud):
    """A VM that goes down sends SIGTERM to everything in it, and training then ends with 0 as well."""
    cloud.ready()(*TRAIN)
    pid = int((cloud.folder / "vms" / "demo" / "0" / "asyncthink_train" / "pid").read_text())
    assert eventually(lambda: "training" in (cloud.folder / "vms/demo/0/asyncthink_train/log").read_text())
    supervisor = int(Path(f"/proc/{pid}/stat").read_text().split()[3])
    for process in (supervisor, pid):
        os.kill(process, signal.SIGTERM)
    assert eventually(lambda: "worker demo-w-0: interrupted | saved" in cloud("status").stdout)


def test_status_takes_a_training_that_vanished_for_interrupted(cloud):
    cloud.ready()(*TRAIN)
    folder = cloud.folder / "vms" / "demo" / "0" / "asyncthink_train"
    supervisor = int(Path(f"/proc/{int((folder / 'pid').read_text())}/stat").read_text().split()[3])
    os.kill(supervisor, signal.SIGKILL)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    assert eventually(lambda: "worker demo-w-0: interrupted" in cloud("status").stdout)


def test_the_log_cannot_pass_for_the_state(cloud):
    cloud.ready().rules({"match": "on_tpu_vm.sh status", "out": "worker demo-w-0: idle | worker x: running | y\n"})
    cloud(*TRAIN)
    assert eventually(lambda: len(cloud.trained()) == 2)


def test_status_of_nothing_costs_nothing(cloud):
    done = cloud("status")
    assert done.stdout == "demo: ABSENT\n" and not done.stderr


def test_stop_lets_training_save_and_keeps_the_vm(cloud):
    cloud.ready()(*TRAIN)
    assert eventually(lambda: len(cloud.trained()) == 2)
    said = cloud("stop").stderr
    assert "demo trains no more" in said and "is billed until" in said
    assert "worker demo-w-0: stopped | saved" in cloud("status").stdout
    cloud(*TRAIN)  # and goes on


def test_stop_of_what_does_not_train_is_no_error(cloud):
    cloud.ready()("stop")


def test_logs_prints_the_end_of_a_workers_log(cloud):
    cloud.ready()(*TRAIN)
    assert eventually(lambda: "training, until_stopped" in cloud("logs", "--worker", "1").stdout)
    assert cloud.calls("tpu-vm", "ssh")[-1][3] == "--worker=1"


def test_logs_without_a_training_says_what_starts_one(cloud):
    assert "'tpu_vm.sh train' starts training" in cloud.ready().refused("logs")


def test_logs_follows(cloud):
    cloud.ready()(*TRAIN)
    words = cloud("logs", "-f", "--dry-run").stdout
    assert shlex.split(words)[5:7] == ["demo", "--command=bash asyncthink_jax/launch/on_tpu_vm.sh logs -f"]


def test_ssh_runs_a_line_of_shell_on_a_worker(cloud):
    cloud.ready()
    assert cloud("ssh", "--worker", "1", "--", 'echo "$HOME" | rev | cut -c 1').stdout == "1\n"


def test_ssh_hands_several_words_on_as_they_are(cloud):
    cloud.ready()
    assert cloud("ssh", "--", "printf", "[%s]", "it's", "a  b").stdout == "[it's][a  b]"


def test_ssh_passes_on_the_exit_code(cloud):
    cloud.ready()("ssh", "--", "exit 7", code=7)


def test_ssh_without_a_command_opens_a_shell(cloud):
    assert shlex.split(cloud("ssh", "--dry-run").stdout) == (
        ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "demo", "--worker=0", "--zone=us-west4-a"]
    )


# ------------------------------------------------------------------------------------------------------------- delete


def test_delete_says_what_may_still_cost(cloud):
    cloud.ready()
    said = cloud("delete", TPU_BUCKET="gs://mine").stderr
    assert "deleted the VM demo" in said
    assert "gcloud storage rm -r gs://mine/demo/" in said
    assert cloud("status").stdout == "demo: ABSENT\n"


def test_delete_of_nothing_says_so_and_is_no_error(cloud):
    assert "no VM demo in us-west4-a" in cloud("delete").stderr
    assert not cloud.calls("tpu-vm", "delete")


@pytest.mark.parametrize("state", ["ACTIVE", "SUSPENDED", "WAITING_FOR_RESOURCES"])
def test_delete_takes_the_queued_resource_even_if_nobody_names_it(cloud, state):
    cloud("create", "--type", "v6e-16", "--slices", "2")
    cloud.state(queues={"demo": state})
    cloud("delete")
    assert cloud.calls("queued-resources", "delete") == [
        ["queued-resources", "delete", "demo", "--force", "--zone=us-west4-a", "--quiet"]
    ]
    assert not list((cloud.folder / "vms").iterdir())


# ----------------------------------------------------------------------------------------------------------- dry run


@pytest.mark.parametrize("command", ["create", "setup", "train", "status", "logs", "ssh", "stop", "delete"])
def test_a_dry_run_prints_calls_that_a_shell_can_read_and_makes_none(cloud, command):
    settings = {"TPU_TYPE": "v5litepod-16", "TPU_BUCKET": "gs://mine", "TPU_CONFIG": "experiments/tiny.py"}
    done = cloud(command, "--dry-run", **settings)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert lines and all(words[0] == "gcloud" or words[:2] == ["git", "-C"] for words in lines)
    assert not cloud.calls() and not done.stderr


def test_a_dry_run_needs_no_gcloud(cloud):
    (cloud.folder / "bin" / "gcloud").unlink()
    assert "tpu-vm create demo" in cloud("create", "--dry-run", "--type", "v6e-16", PATH="/usr/bin:/bin").stdout


def test_a_dry_run_of_train_can_be_pasted(cloud):
    """What is printed, run by a shell, starts training with the same words."""
    cloud.ready()
    word = '--config.name=it\'s a "name"'
    printed = cloud(*TRAIN, "--dry-run", "--", word).stdout
    environment = {"PATH": f"{cloud.folder / 'bin'}:/usr/bin:/bin", "FAKE_GCLOUD": str(cloud.folder)}
    subprocess.run(["bash", "-ec", printed], env=environment, check=True, capture_output=True)
    assert eventually(lambda: len(cloud.trained()) == 2)
    assert cloud.trained()[0]["arguments"][-1] == word

"""launch/tpu_vm.sh against a gcloud that hangs, fails or is missing, and against bad input: one line each."""

import os
import signal
import subprocess
import time

import pytest
from fake_cloud import TRAIN, eventually


def test_a_hanging_gcloud_is_ended_with_a_line(cloud):
    cloud.rules({"match": "tpu-vm describe", "hang": True})
    started = time.monotonic()
    last = cloud.refused("status", TPU_LIMIT="2")
    assert time.monotonic() - started < 60, "it hangs for ten minutes"
    assert last.startswith("error: no answer within 2 s from: gcloud compute tpus tpu-vm describe demo")


def test_ctrl_c_ends_a_call_that_is_under_way(cloud):
    cloud.rules({"match": "tpu-vm create", "hang": True})
    environment = {"PATH": f"{cloud.folder / 'bin'}:/usr/bin:/bin", "FAKE_GCLOUD": str(cloud.folder)}
    words = ["create", "--name", "demo", "--zone", "us-west4-a", "--type", "v6e-16"]
    with subprocess.Popen(
        [cloud.checkout / "launch" / "tpu_vm.sh", *words], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert eventually(lambda: cloud.calls("tpu-vm", "create"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; see what is there: ")


def test_gcloud_is_missing(cloud):
    (cloud.folder / "bin" / "gcloud").unlink()
    (cloud.folder / "tools").mkdir()
    for tool in ("bash", "env", "dirname", "timeout", "sed", "git"):
        os.symlink(f"/usr/bin/{tool}", cloud.folder / "tools" / tool)
    last = cloud.refused("status", PATH=str(cloud.folder / "tools"))
    assert last == "error: gcloud is not installed; see https://cloud.google.com/sdk/docs/install"


def test_nobody_is_logged_in(cloud):
    cloud.state(account="")
    assert cloud.refused("status") == "error: gcloud has no account; run: gcloud auth login"


def test_there_is_no_project(cloud):
    cloud.state(project="")
    assert "no project; add --project ID" in cloud.refused("status")
    cloud("status", "--project", "other")
    assert "--project=other" in cloud.calls("tpu-vm", "describe")[-1]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded.\n",
            "RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' has been exceeded. (see Quota in launch/README.md)",
        ),
        (
            "ERROR: (gcloud.x) INVALID_ARGUMENT: no type v6e-16 in us-west4-a\n",
            "INVALID_ARGUMENT: no type v6e-16 in us-west4-a",
        ),
        ("something went\nwrong\n\n", "wrong"),
        ("", "gcloud said nothing"),
        (
            "ERROR: (gcloud.x) PERMISSION_DENIED: Cloud TPU API has not been used in 1\n- details: x\n",
            "PERMISSION_DENIED: Cloud TPU API has not been used in 1 (gcloud services enable tpu.googleapis.com)",
        ),
    ],
)
def test_an_error_of_gcloud_is_passed_on_as_one_line(cloud, said, told):
    cloud.rules({"match": "tpu-vm create", "code": 1, "err": said})
    assert cloud.refused("create", "--type", "v6e-16") == f"error: could not create demo: {told}"


@pytest.mark.parametrize("count", ["a[$(touch$IFS{file})]", "0", "-1", "1.5", "08", "99999", "x"])
def test_what_gcloud_says_is_never_run_nor_counted_with_unless_it_is_a_number(cloud, count):
    """In bash's arithmetic the index of an array may be a command."""
    file = cloud.folder / "was_run"
    cloud.rules({"match": "queued-resources describe", "out": f"ACTIVE\t{count.format(file=file)}\n", "times": 9})
    last = cloud.refused("status", "--queued")
    assert last.startswith("error: gcloud says '") and last.endswith("' where a number of slices belongs")
    assert not file.exists()


def test_an_error_on_a_worker_is_passed_on(cloud):
    cloud("create", "--type", "v5litepod-16")
    (cloud.folder / "vm_bin" / "uv").write_text("#!/bin/sh\necho 'no room on the disk' >&2; exit 1\n")
    assert "could not install on demo: no room on the disk" in cloud.refused("setup")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "needs a command: create setup train status logs ssh stop delete"),
        (["crate"], "no command 'crate'; did you mean 'create'?"),
        (["create", "--tpye", "v6e-16"], "no flag '--tpye'; did you mean '--type'?"),
        (["create", "--spto"], "no flag '--spto'; did you mean '--spot'?"),
        (["create", "--spot=yes"], "--spot takes no value"),
        (["create", "--type"], "--type needs a value"),
        (["create", "--type", "--spot"], "--type needs a value"),
        (["create", "v6e-16"], "unexpected 'v6e-16'"),
        (["create"], "--type is missing"),
        (["create", "--type", "v5e-16"], "v5litepod-16"),
        (["create", "--type", "h100-8"], "type 'h100-8' is none of"),
        (["create", "--type", "v6e-many"], "doesn't end in its size, like v6e-16"),
        (["create", "--type", "tpu7x-16"], "through GKE only"),
        (["create", "--type", "v6e-16", "--slices", "two"], "--slices 'two' is no positive number"),
        (["status", "--slices", "08"], "--slices '08' is no positive number"),
        (["status", "--slices", "a[$(id)]"], "--slices 'a[$(id)]' is no positive number"),
        (["status", "--service-account", "my account"], "--service-account 'my account' is no address like trainer@"),
        (["status", "--scopes", "a b"], "--scopes 'a b' is no list like https://www.googleapis.com/auth/"),
        (["status", "--name", "my vm"], "name 'my vm': a small letter, then"),
        (["status", "--name", "Demo"], "name 'Demo'"),
        (["status", "--name", ""], "--name needs a value"),
        (["status", "--zone", "us-west4"], "zone 'us-west4' is no zone like us-west4-a"),
        (["train", "--config", "experiments/tiny.py"], "--bucket is missing"),
        (["train", "--bucket", "mine", "--config", "experiments/tiny.py"], "bucket 'mine' is not like gs://mine"),
        (["train", "--bucket", "gs://My Bucket", "--config", "experiments/tiny.py"], "bucket 'gs://My Bucket'"),
        (["train", "--bucket", "gs://mine"], "--config is missing"),
        (
            ["train", "--bucket", "gs://mine", "--config", "experiments/tny.py"],
            "is no file of the checkout that git tracks",
        ),
        (["train", "--config.seed=1"], "--config.seed is for asyncthink_jax.train; put it after --"),
        ([*TRAIN, "--watch"], "--type is missing"),
        (["setup", "--", "x"], "setup hands nothing on"),
        (["logs", "--worker", "first"], "--worker 'first' is neither a number nor 'all'"),
        (["logs", "--worker", "all"], "--worker all is for ssh with a command"),
    ],
)
def test_bad_input_is_one_line_before_any_call(cloud, words, told):
    assert told in cloud.refused(*words, code=2)


@pytest.mark.parametrize("setting", ["TPU_RETRIES", "TPU_BACKOFF", "TPU_POLL", "TPU_LIMIT"])
@pytest.mark.parametrize("value", ["soon", "08", "a[$(id)]", "1" * 20])
def test_a_setting_that_counts_is_a_number(cloud, setting, value):
    assert f"{setting} '{value}' is no whole number" in cloud.refused("status", code=2, **{setting: value})


@pytest.mark.parametrize("setting", ["TPU_NAME", "TPU_ZONE"])
def test_name_and_zone_are_needed(cloud, setting):
    assert f"is missing (or {setting})" in cloud.refused("status", code=2, **{setting: ""})


@pytest.mark.parametrize("words", [["--help"], ["create", "--help"], ["help"]])
def test_help_names_every_command_and_flag(cloud, words):
    text = cloud(*words).stdout
    for word in (
        "create",
        "delete",
        "--bucket",
        "--service-account",
        "--scopes",
        "--watch",
        "TPU_QUEUED",
        "cloud.google.com/tpu/pricing",
        "How to stop it",
    ):
        assert word in text
    assert "set -euo" not in text

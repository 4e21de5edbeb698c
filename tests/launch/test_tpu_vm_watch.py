"""`launch/tpu_vm.sh train --watch` against a cloud that takes VMs away: training goes on, and ends when it should."""

import pytest
from fake_cloud import TRAIN, eventually

WATCH = (*TRAIN, "--watch", "--type", "v5litepod-16", "--spot")


def test_watch_starts_training_and_ends_with_it(cloud):
    cloud.ready().trainings("0")
    said = cloud(*WATCH).stderr
    assert "training on demo is over (done)" in said and "is billed until" in said


@pytest.mark.parametrize("queue", [[], ["--queued"]])
def test_watch_makes_a_preempted_vm_again_and_resumes(cloud, queue):
    cloud("create", "--type", "v5litepod-16", "--spot", *queue)
    cloud("setup", *queue)
    cloud.trainings("until_stopped", "until_stopped", "0")  # two workers of the first VM, then those of the second
    (cloud.folder / "calls.jsonl").unlink()
    look = "queued-resources describe" if queue else "tpu-vm describe"
    cloud.rules({"match": look, "skip": 2, "preempt": True})
    said = cloud(*WATCH, *queue).stderr
    gone = "SUSPENDED" if queue else "PREEMPTED"
    assert f"demo is {gone}; making it again, the run resumes from gs://mine/demo/" in said
    group = "queued-resources" if queue else "tpu-vm"
    changes = [words[1] for words in cloud.calls() if words[0] in ("tpu-vm", group) and words[1] != "describe"]
    assert [word for word in changes if word != "ssh"] == ["delete", "create", "scp"]
    first, _, third, _ = cloud.trained()
    assert first["arguments"] == third["arguments"], "the same command resumes"


def test_watch_looks_after_a_training_that_runs_already(cloud):
    cloud.ready().trainings("until_stopped")
    cloud(*TRAIN)
    process = cloud.folder / "vms" / "demo" / "0" / "asyncthink_train" / "pid"
    assert eventually(process.exists)
    cloud.rules({"match": "on_tpu_vm.sh status", "out": "worker demo-w-0: done | the end\n", "skip": 1})
    cloud(*WATCH)
    assert eventually(lambda: len(cloud.trained()) == 2), "nothing was started beside it"


def test_watch_starts_a_crashed_training_again_a_limited_number_of_times(cloud):
    cloud.ready().trainings("1")
    last = cloud.refused(*WATCH, TPU_RETRIES="2")
    assert "no success in 3 tries: training: worker demo-w-0: failed 1 | training, 1" in last
    assert eventually(lambda: len(cloud.trained()) == 2 * 3)


def test_watch_does_not_repeat_bad_input(cloud):
    cloud.ready().trainings("2")
    assert "failed 2" in cloud.refused(*WATCH)
    assert eventually(lambda: len(cloud.trained()) == 2)


def test_watch_starts_an_interrupted_training_again(cloud):
    cloud.ready().trainings("0")
    cloud.rules({"match": "on_tpu_vm.sh status", "out": "worker demo-w-0: interrupted | step 3\n"})
    cloud(*WATCH)
    assert eventually(lambda: len(cloud.trained()) == 2)


def test_watch_ends_when_training_is_stopped_on_purpose(cloud):
    cloud.ready().rules({"match": "on_tpu_vm.sh status", "out": "worker demo-w-0: stopped | saved\n"})
    assert "is over (stopped)" in cloud(*WATCH).stderr
    assert not cloud.trained()


def test_watch_tries_again_after_errors_of_gcloud(cloud):
    cloud.ready().trainings("0")
    cloud.rules(
        {"match": "describe", "skip": 1, "times": 2, "code": 1, "err": "ERROR: (gcloud.x) UNAVAILABLE: try later\n"}
    )
    assert cloud(*WATCH).stderr.count("UNAVAILABLE: try later; trying again") == 2


def test_watch_gives_up_when_there_is_no_capacity(cloud):
    cloud.ready().state(vms={"demo": ["PREEMPTED", "v5litepod-16"]})
    message = '{\n  "code": 8,\n  "message": "There is no more capacity in the zone \\"us-west4-a\\""\n}\n'
    cloud.rules({"match": "tpu-vm create", "times": 99, "code": 1, "err": f"ERROR: (gcloud.x.tpu-vm.create) {message}"})
    last = cloud.refused(*WATCH, TPU_RETRIES="2")
    assert 'no success in 3 tries: could not create demo: There is no more capacity in the zone "us-west4-a"' in last
    assert len(cloud.calls("tpu-vm", "create")) == 3


def test_watch_does_not_bring_back_a_vm_that_was_deleted(cloud):
    cloud.ready().rules(
        {"match": "tpu-vm describe", "skip": 1, "code": 1, "err": "ERROR: (gcloud.x) NOT_FOUND: demo\n"}
    )
    assert "was not preempted" in cloud.refused(*WATCH)
    assert not cloud.calls("tpu-vm", "create")

"""Runs in a bucket: what is sent and fetched, and a run that goes on on another machine. The bucket is a folder."""

import shutil

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from runs import what_is_left
from test_train import SHORTENED

from asyncthink_jax import train
from asyncthink_jax.config import ConfigError, load, to_json
from asyncthink_jax.files import locked
from asyncthink_jax.parallel.preemption import Preemption
from asyncthink_jax.storage import bucket
from asyncthink_jax.storage.start import Start
from experiments import countdown_tiny

RUN = "gs://b/runs/one"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The folder that `gs://b` stands for."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    real = bucket.AnyPath
    monkeypatch.setattr(bucket, "AnyPath", lambda path: real(str(path).replace("gs://b", str(folder))))
    monkeypatch.setenv("ASYNCTHINK_CACHE", str(tmp_path / "machine one"))
    return folder


def move_to_another_machine(tmp_path, monkeypatch, name="machine two"):
    monkeypatch.setenv("ASYNCTHINK_CACHE", str(tmp_path / name))


def test_a_local_folder_stays_where_it_is(tmp_path):
    (tmp_path / "a").write_text("x")
    assert bucket.local(str(tmp_path)) == tmp_path
    assert bucket.place(tmp_path) is None and bucket.checkpoints(tmp_path) == epath.Path(tmp_path) / "checkpoints"
    bucket.fetch(tmp_path)
    bucket.send(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_that_begins_with_one_that_trains_here_leaves_its_copy_alone(cloud):
    copy, config = bucket.local(RUN), countdown_tiny.get_config()
    (copy / "config.json").write_text(to_json(config))
    bucket.send(copy)
    (copy / "metrics.jsonl").write_text("not sent yet")
    with locked(copy, wait=False):
        assert Start(RUN, "best").folder(config) == copy
        assert (copy / "metrics.jsonl").exists()
    Start(RUN, "best").folder(config)
    assert not (copy / "metrics.jsonl").exists(), "a copy that nobody uses becomes what the bucket holds"


def test_what_is_sent_from_one_machine_is_fetched_on_another(cloud, tmp_path, monkeypatch):
    one = bucket.local(RUN)
    bucket.fetch(one)  # nothing is there yet
    (one / "data" / "test").mkdir(parents=True)
    (one / "data" / "test" / "a b.txt").write_text("1")
    (one / "metrics.jsonl").write_text("first\n")
    (one / ".results.lock").touch()
    bucket.send(one)
    (cloud / "runs" / "one" / "checkpoints" / "latest").mkdir(parents=True)
    (cloud / "runs" / "one" / "checkpoints" / "latest" / "big").write_text("x")

    move_to_another_machine(tmp_path, monkeypatch)
    two = bucket.local(RUN + "/")
    assert two != one
    bucket.fetch(two)
    assert (two / "data" / "test" / "a b.txt").read_text() == "1"
    assert (two / "metrics.jsonl").read_text() == "first\n"
    assert not (two / "checkpoints").exists() and not (two / ".results.lock").exists()
    assert bucket.checkpoints(two) == epath.Path(cloud) / "runs" / "one" / "checkpoints"


def test_only_what_has_changed_is_sent_again(cloud):
    one = bucket.local(RUN)
    for name in ("same", "changes"):
        (one / name).write_text("1")
    bucket.send(one)
    for name in ("same", "changes"):
        (cloud / "runs" / "one" / name).write_text("as it was sent")
    (one / "changes").write_text("22")
    bucket.send(one)
    assert (cloud / "runs" / "one" / "same").read_text() == "as it was sent"
    assert (cloud / "runs" / "one" / "changes").read_text() == "22"


def test_what_is_fetched_takes_the_place_of_what_an_earlier_run_has_left(cloud):
    one = bucket.local(RUN)
    (one / "config.json").write_text("of a run that was deleted from the bucket")
    bucket.fetch(one)
    assert [path.name for path in one.iterdir() if path.name[0] != "."] == [bucket.BUCKET]


def test_addresses_that_read_alike_have_copies_of_their_own_that_say_whose_they_are(cloud):
    """A command that is refused can't lead a run that goes on to another place."""
    one, two = bucket.local("gs://b/exp/lr_1"), bucket.local("gs://b/exp/lr/1")
    assert one != two
    assert (bucket.place(one), bucket.place(two)) == ("gs://b/exp/lr_1", "gs://b/exp/lr/1")
    assert bucket.local("gs://b/exp/lr_1/") == one


@pytest.mark.parametrize("address", ["gs://b/../c", "gs://b//c", "gs://b/a\nb", "http://b/c"])
def test_what_is_no_address_is_refused_before_anything_is_made(cloud, tmp_path, address):
    with pytest.raises(ConfigError, match=r"is no address in a bucket|has a part that is no plain name"):
        bucket.local(address)
    assert not (tmp_path / "machine one").exists()


def test_without_a_place_for_a_copy_a_line_says_which_variable_names_one(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASYNCTHINK_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"no place for a copy of gs://b/c: .*; set ASYNCTHINK_CACHE to a folder"):
        bucket.local("gs://b/c")


class Named(type(epath.Path())):
    """A folder of a store whose objects have the names that are put into `names`, `..` among them."""

    names: tuple[str, ...] = ()

    def iterdir(self):
        yield from super().iterdir()
        if self.name == "one":
            yield from (self / name for name in self.names)

    def is_dir(self):
        return False

    def copy(self, target, overwrite=False):
        epath.Path(target).write_text("from the bucket")


@pytest.mark.parametrize("name", ["..", "a\\b", "a\nb", "\x1b[2J", "../../escaped", "/tmp/escaped", "x" * 300])
def test_an_object_whose_name_could_be_written_elsewhere_is_refused(cloud, tmp_path, monkeypatch, name):
    (cloud / "runs" / "one").mkdir(parents=True)
    monkeypatch.setattr(bucket, "AnyPath", lambda path: Named(str(path).replace("gs://b", str(cloud))))
    monkeypatch.setattr(Named, "names", ("", name))  # some stores list a folder in itself
    one = bucket.local(RUN)
    with pytest.raises(ConfigError, match="which is no plain name of a file; remove or rename it") as raised:
        bucket.fetch(one)
    assert str(raised.value).isprintable() and raised.value.exit_code == 2
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_bucket_that_cannot_be_read_is_named_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYNCTHINK_CACHE", str(tmp_path))

    waits = []

    def refuse(path):
        raise OSError("403: no\npermission")

    monkeypatch.setattr(bucket, "AnyPath", refuse)
    monkeypatch.setattr(bucket.time, "sleep", waits.append)
    with pytest.raises(ConfigError, match=r"^gs://b/runs/one can't be used: 403: no permission$") as raised:
        bucket.fetch(bucket.local(RUN))
    assert waits == [2, 4, 8, 16] and raised.value.exit_code == 1  # a restart may find it again


def failing_first(monkeypatch, *failures):
    """The bucket's next calls fail so, one after the other, and nobody waits between them; what is left to fail."""
    real, left = bucket.AnyPath, list(failures)

    def at_last(path):
        if left and "://" in str(path):
            raise left.pop()
        return real(path)

    monkeypatch.setattr(bucket, "AnyPath", at_last)
    monkeypatch.setattr(bucket.time, "sleep", lambda seconds: None)
    return left


def test_what_passes_while_a_bucket_is_read_is_waited_for(cloud, monkeypatch):
    one = bucket.local(RUN)
    (one / "config.json").write_text("{}")
    bucket.send(one)
    failures = failing_first(monkeypatch, OSError("503"), OSError("no such host"))
    bucket.fetch(one)
    assert (one / "config.json").read_text() == "{}" and not failures


def test_what_passes_while_files_are_sent_is_waited_for(cloud, monkeypatch):
    one = bucket.local(RUN)
    (one / "config.json").write_text("{}")
    failures = failing_first(monkeypatch, OSError("503"))
    bucket.send(one)
    assert (cloud / "runs" / "one" / "config.json").read_text() == "{}" and not failures


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine_with_the_same_bits(cloud, tmp_path, monkeypatch, capsys):
    experiment = tmp_path / "shortened.py"
    experiment.write_text(SHORTENED)

    def run(workdir):
        with flagsaver.flagsaver():
            return train.main(train.FLAGS(["train", f"--config={experiment}", f"--workdir={workdir}"]), [])

    assert run(tmp_path / "undisturbed") == 0
    reached = Preemption.reached
    monkeypatch.setattr(Preemption, "reached", lambda self: reached(self) or self._polls == 58)
    run(RUN)
    monkeypatch.setattr(Preemption, "reached", reached)
    shutil.rmtree(tmp_path / "machine one")
    move_to_another_machine(tmp_path, monkeypatch)
    assert run(RUN) == 0
    left = cloud / "runs" / "one"
    assert {"config.json", "metrics.jsonl", "results.json", "checkpoints", "tokenizer.model"} <= {
        path.name for path in left.iterdir()
    }
    config = load(experiment)
    (arrays, rest), (expected_arrays, expected) = (
        what_is_left(config, folder) for folder in (left, tmp_path / "undisturbed")
    )
    assert rest == expected
    jax.tree.map(np.testing.assert_array_equal, arrays, expected_arrays)
    capsys.readouterr()

    move_to_another_machine(tmp_path, monkeypatch, "machine three")
    assert run(RUN) == 0
    assert "SFT + RL" in capsys.readouterr().out

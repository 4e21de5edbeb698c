"""Two machines and one run in a bucket: who is let in, who waits, and who finds that the run is another's."""

import contextlib
import json
from pathlib import Path

import pytest
from absl.testing import flagsaver

from asyncthink_jax import train
from asyncthink_jax.storage import bucket, bucket_lock
from asyncthink_jax.storage.bucket_lock import BucketError

ROOT = Path(__file__).resolve().parents[2]
RUN = "gs://b/runs/one"


class Store:
    """The folder that `gs://b` stands for, several machines, and what happens while one of them waits."""

    def __init__(self, tmp_path, monkeypatch):
        self.folder, self.waited, self.meanwhile = tmp_path / "cloud", 0.0, []
        self._machines, self._monkeypatch = tmp_path / "machines", monkeypatch
        self.folder.mkdir()
        real = bucket.AnyPath
        monkeypatch.setattr(bucket, "AnyPath", lambda path: real(str(path).replace("gs://b", str(self.folder))))
        monkeypatch.setattr(bucket_lock.time, "sleep", self._sleep)
        monkeypatch.setattr(bucket_lock, "complain", lambda line: self.said.append(line))
        self.said: list[str] = []
        self.never_ended = []  # an abandoned one would be ended

    def _sleep(self, seconds):
        self.waited += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()

    @property
    def lock(self):
        return self.folder / "runs" / "one" / bucket_lock.LOCK

    def on(self, machine):
        """The local copy on a machine."""
        self._monkeypatch.setenv("ASYNCTHINK_CACHE", str(self._machines / machine))
        return bucket.local(RUN)

    def held_by(self, machine):
        """A run that holds the bucket, and would hold it for ever; with its lock."""
        copy = self.on(machine)
        held = bucket.held(copy)
        held.__enter__()
        self.never_ended.append(held)
        return held, bucket._held[copy], copy

    def killed(self, machine):
        """What a killed run leaves."""
        self.held_by(machine)[1]._ended.set()


@pytest.fixture
def store(tmp_path, monkeypatch):
    store = Store(tmp_path, monkeypatch)
    yield store
    for held in store.never_ended:
        with contextlib.suppress(BucketError):
            held.__exit__(None, None, None)


def test_a_run_that_has_ended_lets_the_next_machine_in_at_once(store):
    with bucket.held(store.on("one")):
        assert store.lock.exists()
    assert not store.lock.exists()
    with bucket.held(store.on("two")):
        pass
    assert store.waited == 0 and not store.said


def test_a_folder_of_this_machine_needs_no_lock(tmp_path):
    with bucket.held(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_machine_is_refused_while_another_one_gives_signs_of_life(store):
    _, lock, _ = store.held_by("one")
    store.meanwhile = [lambda: None, lock._beat]
    with pytest.raises(
        BucketError, match=r"gs://b/runs/one is in use by process \d+ on .*, since .*; wait for it"
    ) as raised:
        bucket.held(store.on("two")).__enter__()
    assert raised.value.exit_code == 1, "it may have ended when a restart tries again"
    lock.check()  # still its own


def test_a_killed_run_is_resumed_at_once_on_its_machine(store):
    store.killed("one")
    with bucket.held(store.on("one")):
        assert store.waited == 0
        bucket.fetch(store.on("one"))  # which empties the copy
    store.killed("one")
    with bucket.held(store.on("one")):
        assert store.waited == 0


def test_on_another_machine_it_is_resumed_after_a_silence(store):
    store.killed("one")
    with bucket.held(store.on("two")):
        assert store.waited == bucket_lock.SILENCE_S
        assert len(store.said) == 1 and "goes on in its place" in store.said[0]
        assert bucket_lock.SILENCE_S > 4 * bucket_lock.BEAT_S, "a beat or two may be lost"


def test_one_that_ends_while_another_waits_lets_it_in(store):
    held, _, _ = store.held_by("one")
    store.meanwhile = [lambda: held.__exit__(None, None, None)]
    with bucket.held(store.on("two")):
        assert store.waited == bucket_lock.LOOK_S


def test_a_run_that_was_cut_off_ends_before_it_writes_over_its_successor(store):
    held, lock, copy = store.held_by("one")
    with bucket.held(store.on("two")):
        its = store.lock.read_bytes()
        assert not lock._beat()
        (copy / "metrics.jsonl").write_text("of one that was cut off")
        with pytest.raises(BucketError, match=r"is no longer this process's but held by process \d+ on"):
            bucket.send(copy)
        with contextlib.suppress(BucketError):
            held.__exit__(None, None, None)
        assert store.lock.read_bytes() == its
        assert not (store.folder / "runs" / "one" / "metrics.jsonl").exists()


def test_so_does_one_whose_lock_was_removed_by_hand(store):
    _, _, copy = store.held_by("one")
    store.lock.unlink()
    with pytest.raises(BucketError, match="held by nobody"):
        bucket.send(copy)


@pytest.mark.parametrize(
    "content", [b"", b"by hand", b"[]", b"[" * 100_000, b"\xff", b'{"pid": "\\u001b[2J", "host": 3}']
)
def test_a_lock_that_says_nothing_is_one_all_the_same(store, content):
    store.lock.parent.mkdir(parents=True)
    store.lock.write_bytes(content)
    with bucket.held(store.on("two")):
        assert store.waited == bucket_lock.SILENCE_S and "taken by somebody who does not say so" in store.said[0]


def test_what_a_lock_says_is_shown_without_control_characters(store):
    said = {"pid": "\x1b[2J", "host": "a\nb" * 100, "since": 3, "machine": "other"}
    store.lock.parent.mkdir(parents=True)
    store.lock.write_text(json.dumps(said))
    with bucket.held(store.on("two")):
        assert store.said[0].isprintable() and len(store.said[0]) < 300


def test_a_lock_that_was_made_by_a_try_taken_for_failed_is_ones_own(store, monkeypatch):
    copy = store.on("one")
    filesystem = bucket.fsspec.filesystem("file")
    create, tries = type(filesystem).pipe_file, []

    def answer_is_lost(self, path, value, mode="overwrite", **options):
        tries.append(mode)
        create(self, path, value, mode=mode, **options)
        if len(tries) == 1:
            raise ConnectionError("reset")

    monkeypatch.setattr(type(filesystem), "pipe_file", answer_is_lost)
    with bucket.held(copy):
        assert tries == ["create", "create"]
    assert not store.lock.exists()


def test_another_machine_that_runs_it_ends_train_with_one_line_and_nothing_is_changed(store, capsys):
    _, lock, _ = store.held_by("one")
    before = sorted(store.folder.rglob("*"))
    config = ROOT / "experiments" / "countdown_tiny.py"
    store.on("two")
    store.meanwhile = [lock._beat]
    with flagsaver.flagsaver():
        assert train.main(train.FLAGS(["train", f"--config={config}", f"--workdir={RUN}"]), []) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {RUN} is in use by process") and error.count("\n") == 1
    assert sorted(store.folder.rglob("*")) == before

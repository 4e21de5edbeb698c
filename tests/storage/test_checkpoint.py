"""Checkpoints: what is saved comes back, a kill leaves the one before, what is wrong is told in one line."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from asyncthink_jax.storage import checkpoint_arrays
from asyncthink_jax.storage.checkpoint import CheckpointError, Checkpoints


def make_state(value: float = 0.0, size: int = 300) -> dict:
    params = {"embed": jax.random.normal(jax.random.key(0), (size, 40)) + value, "scale": jnp.ones(3, jnp.bfloat16)}
    return {
        "params": params,
        "optimizer": optax.adamw(1e-3).init(params),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8), 4),
        "data": {"position": np.array(5), "order": np.arange(10)},
    }


def abstract(state):
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype), state)


def as_numpy(leaf) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(as_numpy(a), as_numpy(b))


def error_line(action) -> str:
    with pytest.raises(CheckpointError) as error:
        action()
    line = str(error.value)
    assert len(line.splitlines()) == 1 and len(line) < 400
    return line


def save(folder: pathlib.Path, *steps: int, keep: int = 2) -> dict:
    state = make_state()
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, {"step": step})
    return state


def test_a_fresh_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(make_state())) is None
        assert checkpoints.restore_best(abstract(make_state())) is None
        assert checkpoints.latest_metadata() is None
        assert checkpoints.best_metric() is None


def test_the_whole_state_comes_back_in_another_process_exactly(tmp_path):
    state = make_state(0.1)
    metadata = {"stage": "rl", "metrics_offset": 12345, "reward": 0.1 + 0.2, "list": [1, None]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, metadata)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(state))
    assert_equal(restored.state, state)
    assert restored.step == 3
    assert restored.metadata == metadata
    assert isinstance(restored.state["data"]["order"], np.ndarray)


def test_a_restored_random_key_draws_the_same_numbers(tmp_path):
    state = save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        key = checkpoints.restore(abstract(state)).state["key"]
    assert jax.random.normal(key) == jax.random.normal(state["key"])


def test_the_latest_step_is_restored_and_old_ones_are_removed(tmp_path):
    state = save(tmp_path, 1, 2, 3, 10, keep=2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(state)).step == 10
        assert checkpoints.latest_metadata() == {"step": 10}
    assert sorted(path.name for path in (tmp_path / "latest").iterdir()) == ["10", "3"]


def test_a_saved_state_and_its_metadata_may_be_donated_and_written_to_at_once(tmp_path):
    negate = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)
    seconds = {"rl": 0.0}
    state = {"params": [jax.random.normal(jax.random.key(i), (500, 500)) for i in range(4)], "count": np.zeros(5)}
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(5):
            expected = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
            checkpoints.save(step, state, {"seconds": seconds})
            seconds["rl"] += 1
            state["params"] = jax.block_until_ready(negate(state["params"]))
            state["count"] += 1
            restored = checkpoints.restore(abstract(state))
            assert restored.step == step and restored.metadata == {"seconds": {"rl": float(step)}}
            jax.tree.map(np.testing.assert_array_equal, restored.state, expected)


def test_a_step_that_is_saved_already_is_left_as_it_is(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(), {"run": "first"})
        checkpoints.save(1, make_state(), {"run": "second"})
        assert checkpoints.latest_metadata() == {"run": "first"}


def test_the_best_is_kept_by_its_metric_beside_the_latest(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        for step, metric in [(1, 0.1), (2, 0.5), (3, 0.5), (4, 0.3)]:
            checkpoints.save(step, state, {})
            assert checkpoints.save_best(step, state, {"step": step}, metric=metric) == (step <= 2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_metric() == 0.5
        assert checkpoints.restore_best(abstract(state)).step == 2
        assert checkpoints.restore(abstract(state)).step == 4


def test_the_parameters_alone_can_be_restored(tmp_path):
    state = save(tmp_path, 1)
    wanted = {"params": abstract(state["params"])}
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(wanted, partial=True).state, {"params": state["params"]})
        assert "does not fit: data.order is in it" in error_line(lambda: checkpoints.restore(wanted))


def test_a_sharding_is_restored_to(tmp_path):
    state = save(tmp_path, 1)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    wanted = {"params": {"embed": jax.ShapeDtypeStruct((300, 40), jnp.float32, sharding=sharding)}}
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(wanted, partial=True).state["params"]["embed"]
    assert restored.sharding == sharding
    assert_equal(restored, state["params"]["embed"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"more": np.zeros(2)}, "it has no more"),
        ({"data": {"position": np.array(5), "order": np.arange(9)}}, "data.order is int64[10] there, but int64[9]"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "key is key<fry>[] there, but uint32[2] is needed"),
    ],
)
def test_a_checkpoint_of_another_model_is_one_line(tmp_path, change, says):
    state = save(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        line = error_line(lambda: checkpoints.restore(abstract(state | change)))
    assert says in line and str(tmp_path / "latest" / "1") in line


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def truncate(path: pathlib.Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: pathlib.Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: pathlib.Path):
    path.write_bytes(b"")


def remove(path: pathlib.Path):
    path.unlink()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Two steps whose numbers differ, as {step: state}, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    states = {step: make_state(step, size=10) for step in (1, 2)}
    with Checkpoints(folder) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state, {"step": step, "position": 10 * step})
    return folder, states


@pytest.mark.parametrize("damages", [(flip_a_bit,), (truncate, empty, remove)], ids=["flipped", "cut"])
def test_whatever_file_is_damaged_the_state_is_that_of_the_step_or_of_the_one_before(
    two_steps, tmp_path, capfd, damages
):
    source, states = two_steps
    used = {1: 0, 2: 0}
    for number, path in enumerate(files(source / "latest" / "2")):
        folder = shutil.copytree(source, tmp_path / str(number))
        damages[number % len(damages)](folder / path.relative_to(source))
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore(abstract(states[1]))
        assert restored.metadata == {"step": restored.step, "position": 10 * restored.step}
        assert_equal(restored.state, states[restored.step])
        assert (folder / "damaged" / "latest_2").exists() == (restored.step == 1)
        said = capfd.readouterr().err
        if restored.step == 1:
            assert said.startswith(f"warning: damaged checkpoint {folder / 'latest' / '2'}: ") and said.count("\n") == 1
        else:  # it was a file that orbax writes, and that nothing depends on
            assert said == ""
        used[restored.step] += 1
    assert used[1] >= 4 and used[2] >= 4


@pytest.mark.parametrize("what", ["a file in its place", "an empty folder", "no arrays", "no record"])
def test_a_step_that_is_none_is_set_aside_and_can_be_saved_again(two_steps, tmp_path, what):
    source, states = two_steps
    folder = shutil.copytree(source, tmp_path / "run")
    step = folder / "latest" / "2"
    if what.startswith("no "):
        shutil.rmtree(step / {"no arrays": "state", "no record": "record"}[what])
    else:
        shutil.rmtree(step)
        step.touch() if what == "a file in its place" else step.mkdir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_metadata()["position"] == 10 or what == "no arrays"
        assert checkpoints.restore(abstract(states[1])).step == 1
        checkpoints.save(2, states[2], {"step": 2})
        assert_equal(checkpoints.restore(abstract(states[1])).state, states[2])
    assert (folder / "damaged" / "latest_2").exists()


def test_who_only_reads_is_told_of_the_damage_and_moves_nothing(two_steps, tmp_path, capfd):
    source, states = two_steps
    folder = shutil.copytree(source, tmp_path / "run")
    step = folder / "latest" / "2"
    remove(step / "state" / "manifest.ocdbt")
    with Checkpoints(folder, read_only=True) as checkpoints:
        line = error_line(lambda: checkpoints.restore(abstract(states[1])))
    assert line.startswith(f"damaged checkpoint {step}: ") and step.exists()
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_damaged_again_finds_the_name_taken(two_steps, tmp_path):
    source, _ = two_steps
    folder = shutil.copytree(source, tmp_path / "run")
    for count in (1, 2):
        with Checkpoints(folder) as checkpoints:
            empty(folder / "latest" / "2" / "record" / "metadata")
            assert checkpoints.latest_metadata()["step"] == 1
            checkpoints.save(2, make_state(2, size=10), {"step": 2})
        assert len(list((folder / "damaged").iterdir())) == count


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError("no memory left"),
        ValueError("UNAVAILABLE: the bucket"),
        PermissionError("not yours"),
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        ValueError("NOT_FOUND: Error reading: Input/output error"),
    ],
)
def test_what_may_be_passing_is_no_damage(two_steps, tmp_path, monkeypatch, failure):
    source, states = two_steps
    folder = shutil.copytree(source, tmp_path / "run")

    def fails(*_, **__):
        raise failure

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fails)
    with Checkpoints(folder) as checkpoints:
        assert f"unreadable checkpoint {folder}" in error_line(lambda: checkpoints.restore(abstract(states[1])))
    assert (folder / "latest" / "2").exists()


def test_what_is_not_finite_is_not_restored_and_never_the_best(tmp_path, capfd):
    state = {"params": np.ones(3, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.save_best(1, state, {}, metric=float("nan")) and checkpoints.best_metric() is None
        checkpoints.save(1, state, {})
        checkpoints.save(2, {"params": np.array([1, np.nan, 2], np.float32)}, {})
        assert checkpoints.restore(state).step == 1
    assert "latest/2: params has numbers that are not finite; it is kept as" in capfd.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_are_looked_at_where_they_are(dtype):
    for values, is_finite in (([1, 2], True), ([1, np.nan], False), ([-np.inf, 1], False)):
        part = jnp.array(values, dtype)
        assert checkpoint_arrays.is_finite(part) == checkpoint_arrays.is_finite(np.asarray(part)) == is_finite
        assert bool(checkpoint_arrays._has_finite(part)) == is_finite, "as on a device that is not the host's"
    assert checkpoint_arrays.is_finite(jnp.arange(3))


def test_a_record_of_a_version_that_sealed_none_is_read(two_steps, tmp_path):
    source, states = two_steps
    folder = shutil.copytree(source, tmp_path / "run")
    path = folder / "latest" / "2" / "record" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text())["record"]))
    with Checkpoints(folder) as checkpoints:
        assert_equal(checkpoints.restore(abstract(states[1])).state, states[2])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot use checkpoint folder" in error_line(lambda: Checkpoints(tmp_path / "file" / "checkpoints"))


SAVE_FOR_EVER = """
import itertools, sys
import jax.numpy as jnp, numpy as np
from asyncthink_jax.storage.checkpoint import Checkpoints
with Checkpoints(sys.argv[1], keep=1) as checkpoints:
    for step in itertools.count(int(sys.argv[2])):
        state = {f"p{i}": jnp.full((400, 400), step + i / 100) for i in range(10)} | {"n": np.array(step)}
        checkpoints.save(step, state, {"step": step})
        if step > int(sys.argv[2]):
            print(step, flush=True)
"""


@pytest.mark.parametrize("saves", [0, 1, 3])
def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before(tmp_path, saves):
    def half_saved():
        return [path for path in (tmp_path / "latest").iterdir() if "tmp" in path.name]

    command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(saves + 1):
            process.stdout.readline()
        while True:  # stopped in the middle of a save, then killed there
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            if half_saved():
                break
            process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert half_saved()

    wanted = {f"p{i}": jax.ShapeDtypeStruct((400, 400), jnp.float32) for i in range(10)} | {"n": np.array(0)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored = checkpoints.restore(wanted)
        assert restored.step >= saves + 1
        assert restored.metadata == {"step": restored.step}
        assert restored.state["n"] == restored.step
        for i in range(10):
            np.testing.assert_array_equal(restored.state[f"p{i}"], np.float32(restored.step + i / 100))
        checkpoints.save(restored.step + 1, restored.state, {})  # the run goes on
        assert checkpoints.restore(wanted).step == restored.step + 1
    assert not half_saved()

"""Where a run goes on: only at a stage and a step that are its own, and before what is damaged.

The stages of these runs have ended, so that nothing is compiled: what they give back tells what they went on from.
"""

import shutil

import jax
import numpy as np
import pytest
from test_train import SHORTENED

from asyncthink_jax.config import load
from asyncthink_jax.storage.checkpoint import CheckpointError, Checkpoints
from asyncthink_jax.storage.metrics import Progress
from asyncthink_jax.storage.restore import cold_start_checkpoints, restore_params
from asyncthink_jax.training import experiment as experiment_lib
from asyncthink_jax.training.optimizer import make_optimizer
from asyncthink_jax.training.optimizer_step import new_state
from asyncthink_jax.training.run import Run

SFT, RL = 4, 2  # steps, iterations
ITERATOR = {"next_index": 4}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "shortened.py").write_text(SHORTENED)
    return experiment_lib.build(load(folder / "shortened.py", [f"sft.steps={SFT}", f"rl.iterations={RL}"]), folder)


@pytest.fixture(scope="module")
def params(built):
    first = built.new_params()
    return {name: jax.tree.map(lambda x, n=n: x + n, first) for n, name in enumerate(("sft", "rl", "best"), 1)}


def save(checkpoints, built, params, stage, step, data=ITERATOR):
    config = getattr(built.config, stage)
    steps = config.steps if stage == "sft" else config.iterations * config.optimizer_steps
    state = new_state(jax.tree.map(lambda x: x.copy(), params), make_optimizer(config, steps), built.mesh)
    place = step if stage == "sft" else SFT + step
    about = {"stage": stage, "step": step, "data": data, "validates": False}
    checkpoints.save(place, state, about | {"position": 100 * place, "seconds": {stage: 1.0 * step}})


@pytest.fixture(scope="module")
def made(built, params, tmp_path_factory):
    """A run that has ended: its last steps in both stages, the best, and the cold start."""
    folder = tmp_path_factory.mktemp("made") / "run"
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        save(checkpoints, built, params["sft"], "sft", SFT)
        save(checkpoints, built, params["rl"], "rl", 1)
        save(checkpoints, built, params["rl"], "rl", 2)
        checkpoints.save_best(1, params["best"], {"iteration": 1}, metric=0.5)
    with cold_start_checkpoints(folder) as checkpoints:
        checkpoints.save(SFT, params["sft"], {"seconds": {"sft": 4.0}, "position": 400})
    (folder / "metrics.jsonl").write_bytes(b"x" * 1000)
    return folder


@pytest.fixture
def workdir(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


def damage(folder):
    (folder / "record" / "metadata").write_bytes(b"{")


def latest(workdir, step):
    return workdir / "checkpoints" / "latest" / str(step)


def cold_start(workdir):
    return workdir / "checkpoints" / "cold_start" / "latest" / str(SFT)


def gone_on(built, workdir, **options):
    """The parameters at the end of both stages, and how much of the metrics was kept."""
    progress = Progress({"sft": SFT, "rl": RL}, quiet=True)
    with Run(built, workdir, progress, "async", **options) as run:
        learned = run.reinforce(run.cold_start())
        return learned, run.metrics.position


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_that_has_ended_goes_on_at_its_end(built, params, workdir):
    learned, position = gone_on(built, workdir)
    assert_equal(learned, params["best"])
    assert position == 100 * (SFT + RL)


@pytest.mark.parametrize("which", ["missing", "damaged"])
def test_rl_does_not_go_on_without_the_cold_start_that_it_began_from(built, params, workdir, which):
    shutil.rmtree(cold_start(workdir)) if which == "missing" else damage(cold_start(workdir))
    for _ in range(2):
        with pytest.raises(CheckpointError, match="is of RL, and the cold start that it began from is gone: give one"):
            gone_on(built, workdir)
    with cold_start_checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.latest_metadata() is None, "parameters of RL are no cold start"
    assert sorted(path.name for path in latest(workdir, 0).parent.iterdir()) == ["4", "5", "6"]


def test_rl_goes_on_with_its_cold_start_from_another_run_and_with_no_other(built, params, workdir, made, tmp_path):
    other = tmp_path / "other"
    with cold_start_checkpoints(other) as checkpoints:
        checkpoints.save(SFT, params["best"], {"seconds": {"sft": 4.0}})
    with cold_start_checkpoints(made, read_only=True) as checkpoints:
        checksum = checkpoints.restore(None).checksum
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        about = checkpoints.latest_metadata()
    shutil.rmtree(cold_start(workdir))
    learned, _ = gone_on(built, workdir, taught_by=made)
    assert_equal(learned, params["best"])
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        shutil.rmtree(latest(workdir, 6))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        optimizer = make_optimizer(built.config.rl, RL * built.config.rl.optimizer_steps)
        state = new_state(jax.tree.map(lambda x: x.copy(), params["rl"]), optimizer, built.mesh)
        checkpoints.save(6, state, about | {"cold_start": checksum})
    gone_on(built, workdir)
    shutil.rmtree(cold_start(workdir))
    with pytest.raises(CheckpointError, match="began from another cold start than that in"):
        gone_on(built, workdir, taught_by=other)


def test_a_cold_start_that_is_damaged_is_made_again_where_its_last_step_is_the_latest(built, params, workdir, capfd):
    damage(cold_start(workdir))
    shutil.rmtree(latest(workdir, 5))
    shutil.rmtree(latest(workdir, 6))
    progress = Progress({"sft": SFT, "rl": RL}, quiet=True)
    with Run(built, workdir, progress, "async") as run:
        assert_equal(run.cold_start(), params["sft"])
    assert_equal(restore_params(built.abstract_params(), workdir, "cold_start"), params["sft"])
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"warning: damaged checkpoint {cold_start(workdir)}: ")
    assert (workdir / "checkpoints" / "cold_start" / "damaged" / "latest_4" / "state").is_dir()


def test_a_damaged_step_is_set_aside_and_the_one_before_is_gone_on_from(built, params, workdir, capfd):
    damage(latest(workdir, 6))
    shutil.rmtree(latest(workdir, 5))
    with Run(built, workdir, Progress({"sft": SFT, "rl": RL}, quiet=True), "async") as run:
        metadata = run.checkpoints.latest_metadata()
        assert (metadata["stage"], metadata["position"]) == ("sft", 400)
        save(run.checkpoints, built, params["rl"], "rl", 2)
        assert run.checkpoints.latest_metadata()["stage"] == "rl", "what was set aside can be saved again"
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "going on from the one before it, step 4" in error
    assert (workdir / "checkpoints" / "damaged" / "latest_6").is_dir()


def test_a_checkpoint_under_the_name_of_another_step_is_refused(built, workdir):
    latest(workdir, 6).rename(latest(workdir, 7))
    with pytest.raises(CheckpointError, match="latest/7 does not fit: it is of rl step 2 of 2"):
        gone_on(built, workdir)


def test_a_place_in_the_data_that_is_none_is_refused(built, params, workdir):
    shutil.rmtree(latest(workdir, 6))
    with Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
        save(checkpoints, built, params["rl"], "rl", 2, data={"elsewhere": 1})
    with pytest.raises(CheckpointError, match="latest/6 does not fit: its place in the data is none"):
        gone_on(built, workdir)


def test_what_is_lost_with_a_damaged_checkpoint_is_told_to_who_only_reads_it(built, workdir):
    for which, folder, says in (
        ("best", workdir / "checkpoints" / "best" / "1", "are lost: --checkpoint latest takes those of the last step"),
        ("latest", latest(workdir, 6), "goes on from the one before it"),
        ("cold_start", cold_start(workdir), "--checkpoint best or latest"),
    ):
        damage(folder)
        with pytest.raises(CheckpointError, match=f"damaged checkpoint {folder}: .*{says}"):
            restore_params(built.abstract_params(), workdir, which)
        assert folder.exists(), "who only reads moves nothing"


def test_without_the_best_that_is_damaged_the_last_step_is_taken(built, params, workdir, capfd):
    damage(workdir / "checkpoints" / "best" / "1")
    learned, _ = gone_on(built, workdir)
    assert_equal(learned, params["rl"])
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "checkpoints/damaged/best_1; there is none before it" in error

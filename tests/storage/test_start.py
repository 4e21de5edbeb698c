"""A run that begins at another run's parameters, and one that is made longer."""

import json

import jax
import numpy as np
import pytest

from asyncthink_jax.config import ConfigError, override, to_json
from asyncthink_jax.storage.metrics import Progress
from asyncthink_jax.storage.results import read_results, set_scores_aside
from asyncthink_jax.storage.start import Start, is_longer, lengthened
from asyncthink_jax.training import experiment
from asyncthink_jax.training.run import Run
from experiments import faults
from experiments.scores import load


def config_with(*overrides):
    config = faults.SMALL
    for item in overrides:
        config = override(config, item)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose best checkpoint is of RL, and other than its cold start."""
    tmp_path = tmp_path_factory.mktemp("start")
    folder, config = tmp_path / "trained", config_with()
    folder.mkdir()
    built = experiment.build(config, folder)
    (folder / "config.json").write_text(to_json(config))
    params = built.new_params()
    with Progress({}, quiet=True) as progress, Run(built, folder, progress, "async") as run:
        run.cold_start_checkpoint.save(40, params, {"seconds": {}})
        run.checkpoints.save_best(3, jax.tree.map(lambda x: x + 1, params), {"iteration": 3}, metric=1.0)
    return folder


def begun(config, folder):
    """The parameters that a run without a cold start of its own gives to RL."""
    folder.mkdir()
    built = experiment.build(config, folder)
    with Progress({}, quiet=True) as progress, Run(built, folder, progress, "async") as run:
        return built, run.cold_start()


@pytest.mark.parametrize(("which", "added"), [("", 1), ("@best", 1), ("@cold_start", 0)])
def test_a_run_begins_with_the_parameters_and_the_tokenizer_of_another(trained, tmp_path, which, added):
    plain = config_with("sft.steps=0", "seed=5")
    built, params = begun(override(plain, f"start_from={trained}{which}"), tmp_path / "new")
    first = experiment.build(config_with(), trained).new_params()
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_equal(ours, theirs + added), params, first)
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == (trained / "tokenizer.model").read_bytes()
    assert (tmp_path / "new" / "prompts.json").read_bytes() == (trained / "prompts.json").read_bytes()
    assert built.config.start_from == f"{trained}{which}", "a resume must know what the run began with"


def test_what_a_run_cannot_begin_with_is_refused(trained, tmp_path):
    config, new = config_with("sft.steps=0"), tmp_path / "new"
    new.mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    for change, says in (
        (f"start_from={tmp_path / 'nowhere'}", "holds no run"),
        (f"start_from={trained}@newest", r"@newest holds no run .*; it is RUN, or .*RUN@latest"),
        (f"start_from={model}", "is no run of train; a model of others goes into `pretrained`"),
        (f"start_from={trained}\ntask.name=sudoku", "has a tokenizer of the words of countdown_tiny alone"),
        (f"start_from={trained}\ntask.max_target=300", "has no token for "),
        (f"start_from={trained}\nmodel.layers=7", r"a model of other shapes: model\.layers \(\d there, 7 here\)$"),
        (f"start_from={trained}\nmodel.tied_embeddings=false", r"other shapes: model\.tied_embeddings \(True there"),
    ):
        other = config
        for item in change.split("\n"):
            other = override(other, item)
        with pytest.raises(ConfigError, match=says):
            experiment.build(other, new)
    other = override(override(config, f"start_from={trained}"), "pretrained=some/model")
    with pytest.raises(ConfigError, match="has pretrained='', this run 'some/model'"):
        Start.of(other).folder(other)


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    named = {text: Start.of(config_with(f"start_from={text}")) for text in ("a@b", "a@b@latest", "a")}
    assert named == {"a@b": Start("a@b", "best"), "a@b@latest": Start("a@b", "latest"), "a": Start("a", "best")}


def test_a_run_only_becomes_longer_and_its_rl_keeps_the_cold_start(tmp_path):
    saved = config_with()
    now = config_with("rl.iterations=12", "rl.learning_rate=1")
    assert is_longer(saved, now) and not is_longer(saved, saved)
    assert lengthened(saved, now) == config_with("rl.iterations=12"), "nothing but its length changes"
    with pytest.raises(ConfigError, match=r"rl\.iterations is 10 in the run and 9 here"):
        lengthened(saved, config_with("rl.iterations=9"))
    with pytest.raises(ConfigError, match="its RL has begun from the end of its cold start"):
        lengthened(saved, config_with("sft.steps=50"))
    alone = config_with("rl.iterations=0")
    longer = config_with("rl.iterations=3", "sft.steps=50")
    assert lengthened(alone, longer) == longer


def test_the_scores_of_the_shorter_run_are_kept_under_a_name_of_their_own(tmp_path):
    one = next(iter(load().values()))["paradigms"]["async"]["after_rl"]
    rows = {name: one | {"n": n} for n, name in enumerate(("after_sft", "after_rl", "after_rl_greedy"))}
    (tmp_path / "results.json").write_text(json.dumps({"paradigms": {"async": rows, "parallel": rows}}))
    set_scores_aside(tmp_path, "async", config_with(), config_with("rl.iterations=12"))
    older = {name: rows[name] for name in ("after_rl", "after_rl_greedy")}
    assert read_results(tmp_path)["paradigms"] == {
        "async": {"after_sft": rows["after_sft"]},
        "parallel": rows,
        "async_10_iterations": older,
    }

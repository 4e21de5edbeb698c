"""Training that starts from a released model: its weights, tokenizer and prompts, with and without adapters."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from absl.testing import flagsaver

from asyncthink_jax import convert
from asyncthink_jax.config import Config, ConfigError, RLConfig, RolloutConfig, SFTConfig, to_json
from asyncthink_jax.model import transformer
from asyncthink_jax.model.model_config import LoRA, ModelConfig
from asyncthink_jax.model.save_hf import save_hf
from asyncthink_jax.model.weights import load, open_weights
from asyncthink_jax.play.thinker import Settings, load_model
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import Prompts, organizer_examples, organizer_instructions, worker_instructions
from asyncthink_jax.storage.metrics import Progress
from asyncthink_jax.storage.restore import cold_start_checkpoints
from asyncthink_jax.storage.texts import record_set_up
from asyncthink_jax.tasks import Countdown, Sudoku
from asyncthink_jax.training import experiment
from asyncthink_jax.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:'VariableState' was removed:DeprecationWarning")  # asked for by qwix

CHAT = (
    "{% for m in messages %}<|turn|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|turn|>{% endif %}"
)
SIZES = ModelConfig(vocab_size=0, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=48)
SHORT = RolloutConfig(
    slots=4, organizer_budget=8, worker_budget=6, context=1024, worker_context=512, feed_width=64, constrain=True
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A small model as it would be published: weights, and a byte-level BPE of fewer tokens than they have rows."""
    folder = tmp_path_factory.mktemp("release")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|turn|>", "<|end|>"],
        show_progress=False,
    )
    texts = [organizer_instructions(Grammar(4, 6)), worker_instructions(), Countdown().instructions]
    bpe.train_from_iterator(texts, trainer)
    beside = folder / "beside"
    beside.mkdir()
    bpe.save(str(beside / "tokenizer.json"))
    (beside / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": CHAT}))
    config = dataclasses.replace(SIZES, vocab_size=bpe.get_vocab_size() + 7)
    save_hf(
        folder / "model",
        config,
        transformer.init(config, jax.random.key(5)),
        "float32",
        special_tokens={"eos_token_id": 1},
        beside=list(beside.iterdir()),
    )
    return folder / "model"


def config_of(release: Path, **model: object) -> Config:
    return Config(
        name="pretrained",
        pretrained=str(release),
        task=Countdown(max_number=12, validation_problems=4, test_problems=4),
        model=dataclasses.replace(SIZES, **model),
        rollout=SHORT,
        sft=SFTConfig(steps=3, rows=4, row_length=1024, optimizer="adamw", learning_rate=1e-3, warmup_steps=0),
        rl=RLConfig(iterations=1, prompts=2, group_size=2, rows=16, row_length=1024, optimizer_steps=1),
    )


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def equal(one: object, other: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_starts_from_the_weights_with_the_tokenizer_and_prompts_of_the_release(release, workdir):
    built = experiment.build(config_of(release), workdir)
    equal(built.new_params(), load(open_weights(release)))
    assert built.model.vocab_size == built.tokenizer.vocab_size + 7
    assert built.tokenizer.eos_id == built.tokenizer.controls["<|end|>"]
    prompt = built.prompt(built.splits["test"][0])
    turns = 2 * len(organizer_examples(Grammar(4, 6))) + 3  # of the system, of the user, and the model's own
    assert prompt.count(built.tokenizer.controls["<|turn|>"]) == turns
    assert "<FORK-i>" in built.tokenizer.decode(prompt)
    assert built.prompts == Prompts.load(workdir / "prompts.json")


def test_every_end_of_a_text_that_a_release_names_stops_its_engine_and_is_in_an_export(release, workdir, tmp_path):
    named = shutil.copytree(release, tmp_path / "release")
    (named / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1, 2**32 - 1]}))
    config = config_of(named)
    built = experiment.build(config, workdir)
    assert built.engine.step.stop_ids == [0, 1] and built.tokenizer.eos_id == 1
    (workdir / "config.json").write_text(to_json(config))
    assert experiment.build(config, workdir).engine.step.stop_ids == [0, 1]  # out of the run's own folder
    with cold_start_checkpoints(workdir) as checkpoints:
        checkpoints.save(1, built.new_params(), {"seconds": {}})
        checkpoints.wait()
    with flagsaver.flagsaver():
        arguments = ["convert", "--from", str(workdir), "--to", str(tmp_path / "out"), "--checkpoint", "cold_start"]
        assert convert.main(convert.FLAGS(arguments)) == 0
    assert open_weights(tmp_path / "out").special_tokens == {"eos_token_id": [1, 0]}
    said = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_text())
        for name in ("generation_config", "tokenizer_config")
    }
    assert said["generation_config"]["eos_token_id"] == [1, 0]
    assert not any(name.endswith("_token_id") for name in said["tokenizer_config"])


def test_a_release_that_is_asked_multiplies_in_full_where_it_is_in_fp32(release, monkeypatch):
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    jax.config.update("jax_default_matmul_precision", None)
    load_model(release, Settings(max_tokens=8))
    assert jax.config.jax_default_matmul_precision == "highest"  # on CPU it is


def test_a_run_keeps_the_prompts_it_started_with(release, workdir, tmp_path):
    source = shutil.copytree(release, tmp_path / "source")
    config = config_of(source)
    before = experiment.build(config, workdir)
    (workdir / "config.json").write_text(to_json(config))
    changed = json.loads((source / "tokenizer_config.json").read_text()) | {"chat_template": "Now: " + CHAT}
    (source / "tokenizer_config.json").write_text(json.dumps(changed))
    after = experiment.build(config, workdir)
    assert after.prompts == before.prompts and after.tokenizer.vocabulary == before.tokenizer.vocabulary


def test_prompts_that_are_lost_are_made_again_only_if_known_to_be_the_same(release, workdir, tmp_path):
    source = shutil.copytree(release, tmp_path / "source")
    config = config_of(source)
    before = experiment.build(config, workdir)
    (workdir / "config.json").write_text(to_json(config))
    record_set_up(workdir)
    for name in ("prompts.json", "tokenizer_config.json"):
        (workdir / name).unlink()
    assert experiment.build(config, workdir).prompts == before.prompts
    (workdir / "prompts.json").unlink()
    changed = json.loads((source / "tokenizer_config.json").read_text()) | {"chat_template": "Now: " + CHAT}
    (source / "tokenizer_config.json").write_text(json.dumps(changed))
    for kept in ("with", "without"):  # sums, as runs of before have none
        with pytest.raises(ConfigError, match=r"prompts\.json is missing.*; put it back from a copy"):
            experiment.build(config, workdir)
        if kept == "with":
            (workdir / "SHA256SUMS").unlink()


def test_a_run_that_is_asked_another_task_has_that_ones_prompts(release, workdir):
    config = config_of(release)
    before = experiment.build(config, workdir)
    (workdir / "config.json").write_text(to_json(config))
    sudoku = Sudoku(train_problems=4, validation_problems=2, test_problems=3)
    longer = dataclasses.replace(config.rollout, context=2048)
    after = experiment.build(dataclasses.replace(config, task=sudoku, rollout=longer), workdir)
    assert "Sudoku" in after.prompts.organizer and "Sudoku" not in before.prompts.organizer
    assert len(after.splits["test"]) == 3
    assert Prompts.load(workdir / "prompts.json") == before.prompts, "the run keeps its own"


def test_what_does_not_fit_the_release_is_refused(release, workdir, tmp_path):
    with pytest.raises(ConfigError, match=r"layers: expected 3, got 2"):
        experiment.build(config_of(release, layers=3), workdir)
    with pytest.raises(ConfigError, match=r"model.vocab_size is 11, the model .* has \d+ tokens"):
        experiment.build(config_of(release, vocab_size=11), workdir)
    with pytest.raises(ConfigError, match=r"no-such-folder"):
        experiment.build(dataclasses.replace(config_of(release), pretrained=str(tmp_path / "no-such-folder")), workdir)


def trained(config: Config, workdir: Path):
    """A cold start and an iteration of RL; what they leave as the export has it, and the run."""
    built = experiment.build(config, workdir)
    (workdir / "config.json").write_text(to_json(config))
    with Progress({"sft": 3, "rl": 1}) as progress, Run(built, workdir, progress, "async") as run:
        run.reinforce(run.cold_start())
    with flagsaver.flagsaver():
        arguments = ["convert", "--from", str(workdir), "--to", str(workdir / "export"), "--dtype", "float32"]
        assert convert.main(convert.FLAGS([*arguments, "--checkpoint", "latest"])) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return load(open_weights(workdir / "export")), [line for line in lines if line["stage"] == "sft"]


@pytest.mark.slow
def test_both_stages_train_a_released_model(release, workdir):
    params, losses = trained(config_of(release), workdir)
    assert losses[-1]["loss"] < losses[0]["loss"]
    before = load(open_weights(release))
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(params), strict=True))


@pytest.mark.slow
def test_adapters_train_beside_frozen_weights_and_are_merged_at_export(release, workdir):
    config = config_of(release, lora=LoRA(rank=2, alpha=4.0))
    params, losses = trained(config, workdir)
    assert losses[-1]["loss"] < losses[0]["loss"]
    before = load(open_weights(release))
    equal(params["embed"], before["embed"])
    equal(params["layers"]["mlp_norm"], before["layers"]["mlp_norm"])
    change = np.asarray(params["layers"]["up"]["kernel"] - before["layers"]["up"]["kernel"])
    sizes = np.linalg.svd(change, compute_uv=False)
    assert np.all(sizes[:, 1] > 1e-5) and np.all(sizes[:, 2] < 1e-6), "a change of rank 2, up to rounding"

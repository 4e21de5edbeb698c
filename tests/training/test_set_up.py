"""What a run begins with: damage to it is known, and mended where that gives the very bytes, else named."""

import shutil

import pytest

from asyncthink_jax.config import Config, ConfigError, RolloutConfig, is_run, load, to_json
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.storage.texts import record_set_up
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.training import experiment

CONFIG = Config(
    name="small",
    task=Countdown(max_number=12, validation_problems=4, test_problems=4),
    model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
    rollout=RolloutConfig(slots=8, organizer_budget=14, worker_budget=8, context=24),
)


@pytest.fixture(scope="module")
def set_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    experiment.build(CONFIG, folder)
    (folder / "config.json").write_text(to_json(CONFIG))
    record_set_up(folder)
    return folder


@pytest.fixture
def workdir(set_up, tmp_path):
    return shutil.copytree(set_up, tmp_path / "run")


def built(workdir):
    return experiment.build(load(workdir / "config.json"), workdir)


@pytest.mark.parametrize("name", ["tokenizer.model", "prompts.json"])
def test_a_damaged_tokenizer_or_prompt_is_made_again(workdir, name, capsys):
    whole = (workdir / name).read_bytes()
    for damage in (whole[:40], b"", whole[:30] + bytes([whole[30] ^ 1]) + whole[31:], None):
        (workdir / name).unlink()
        if damage is not None:
            (workdir / name).write_bytes(damage)
        built(workdir)
        assert (workdir / name).read_bytes() == whole
        told = f"warning: {workdir / name} was damaged or missing, and has been made again, byte for byte\n"
        assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["tokenizer.model", "prompts.json"])
def test_what_cannot_be_made_again_is_named(workdir, name):
    """Sums of other bytes stand for a release whose files have changed since."""
    sums = (workdir / "SHA256SUMS").read_text().splitlines(keepends=True)
    (workdir / "SHA256SUMS").write_text("".join("0" * 64 + s[64:] if s.endswith(f" {name}\n") else s for s in sums))
    built(workdir)  # what is there is what would be made: the sum is what is damaged
    (workdir / name).write_bytes((workdir / name).read_bytes()[:40])
    with pytest.raises(ConfigError, match=f"{name} is not what it was when the run began; put it back from a copy"):
        built(workdir)
    (workdir / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing; put it back from a copy"):
        built(workdir)


def test_a_changed_config_is_named(workdir):
    path = workdir / "config.json"
    text = path.read_text()
    for damage, told in (
        (text.replace('"context": 24', '"context": 25'), "is not what it was when the run began"),
        (text[:100], "is no JSON"),
        ("", "is empty"),
        ("[]", "holds no JSON object"),
    ):
        path.write_text(damage)
        with pytest.raises(ConfigError, match=rf"config\.json {told}.*put it back from a copy"):
            load(path)
    (workdir / "SHA256SUMS").unlink()
    path.write_text(text.replace('"context": 24', '"context": "wide"'))
    with pytest.raises(ConfigError, match=r"config\.json: "):
        load(path)


def test_a_run_with_a_damaged_config_is_not_taken_for_a_model(workdir):
    assert is_run(workdir) and not is_run(workdir.parent) and not is_run(workdir / "prompts.json")
    (workdir / "checkpoints" / "latest").mkdir(parents=True)
    (workdir / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json can't be read .*; put it back from a copy"):
        is_run(workdir)
    (workdir / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has the checkpoints of a run, but no config\.json"):
        is_run(workdir)


def test_a_model_with_checkpoints_of_another_trainer_is_no_run(tmp_path):
    (tmp_path / "checkpoints" / "step-100").mkdir(parents=True)
    assert not is_run(tmp_path)  # of a GGUF file, say
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert not is_run(tmp_path)
    (tmp_path / "checkpoints" / "latest").mkdir()
    assert not is_run(tmp_path)

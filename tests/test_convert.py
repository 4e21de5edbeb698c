"""The command that writes Hugging Face folders: from a folder, a GGUF file, or a run; one line for bad input."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from asyncthink_jax import convert
from asyncthink_jax.config import Config, RolloutConfig, load, to_json
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.model.weights import load as load_weights
from asyncthink_jax.model.weights import open_weights
from asyncthink_jax.storage.restore import cold_start_checkpoints, restore_params
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.training import experiment

GOLDEN = pathlib.Path(__file__).parent / "model" / "golden"


def run(*arguments):
    with flagsaver.flagsaver():
        return convert.main(convert.FLAGS(["convert", *map(str, arguments)]))


def test_a_folder_is_written_with_its_tokenizer(tmp_path, capsys):
    source = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "source")
    for name in ("tokenizer.json", "merges.txt", "README.md"):
        (source / name).write_text(name)
    assert run("--from", source, "--to", tmp_path / "out", "--dtype", "float32") == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'out'}\n"
    written, read = open_weights(tmp_path / "out"), open_weights(source)
    jax.tree.map(np.testing.assert_array_equal, load_weights(written), load_weights(read))
    assert written.config == read.config and written.context == 128
    assert written.special_tokens == {"bos_token_id": 1, "eos_token_id": 2}
    copied = {path.name for path in (tmp_path / "out").iterdir()}
    assert copied == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "merges.txt",
    }
    assert (tmp_path / "out" / "generation_config.json").read_text() == (source / "generation_config.json").read_text()


def test_a_tokenizer_that_is_a_link_out_of_the_folder_is_not_copied(tmp_path, capsys):
    source = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "source")
    (tmp_path / "key").write_text("secret")
    (source / "vocab.json").symlink_to(tmp_path / "key")
    assert run("--from", source, "--to", tmp_path / "out") == 2
    assert "vocab.json is a link to" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ends_of_a_text_are_written_as_they_came(tmp_path):
    source = shutil.copytree(GOLDEN / "qwen3_tied", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    for number, (stated, written) in enumerate([([7, 2], [7, 2]), ([2], [2]), (2, 2), ("2", 2), (2**32 - 1, None)]):
        (source / "config.json").write_text(json.dumps(config | {"eos_token_id": stated, "pad_token_id": -1}))
        (source / "generation_config.json").unlink(missing_ok=True)
        out = tmp_path / f"out{number}"
        assert run("--from", source, "--to", out) == 0
        for name in ("config.json", "generation_config.json"):
            said = json.loads((out / name).read_text())
            assert said.get("eos_token_id") == written and said.get("pad_token_id") is None


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose cold start is saved."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = Config(
        name="small",
        model=ModelConfig(vocab_size=0, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=48),
        task=Countdown(max_number=12, validation_problems=4, test_problems=4),
        rollout=RolloutConfig(context=224),
    )
    built = experiment.build(config, folder)
    (folder / "config.json").write_text(to_json(config))
    with cold_start_checkpoints(folder) as checkpoints:
        checkpoints.save(1, built.new_params(), {"seconds": {}})
        checkpoints.wait()
    return folder


def test_a_run_is_written_with_its_tokenizer(workdir, tmp_path):
    assert run("--from", workdir, "--to", tmp_path / "out", "--dtype=float32", "--checkpoint=cold_start") == 0
    weights = open_weights(tmp_path / "out")
    built = experiment.build(load(workdir / "config.json"), workdir)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_weights(weights),
        restore_params(built.abstract_params(), workdir, "cold_start"),
    )
    assert weights.config == built.model
    assert weights.special_tokens == {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    assert weights.context == 224
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (workdir / "tokenizer.model").read_bytes()
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == ["Qwen3ForCausalLM"] and written["transformers_version"]
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "LlamaTokenizer" and not said["add_bos_token"]
    special = [said[f"{name}_token"] for name in ("pad", "eos", "bos", "unk")]
    assert special == [built.tokenizer.model.IdToPiece(i) for i in range(4)]


def test_bad_input_is_one_line(workdir, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert run(*arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return printed.err

    golden, out = GOLDEN / "llama3", tmp_path / "out"
    assert "--from is missing" in refused("--to", out)
    assert "--to is missing" in refused("--from", golden)
    assert "unexpected argument 'now'" in refused("--from", golden, "--to", out, "now")
    assert "--dtype 'int8' is not one of bfloat16, float32" in refused("--from", golden, "--to", out, "--dtype=int8")
    assert "--checkpoint is of a run, and " in refused("--from", golden, "--to", out, "--checkpoint=best")
    assert "has no checkpoint 'latest' yet" in refused("--from", workdir, "--to", out, "--checkpoint=latest")
    assert "does not exist" in refused("--from", tmp_path / "nowhere", "--to", out)
    assert f"--to {workdir} is not empty; name a new folder" in refused("--from", golden, "--to", workdir)
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert "is the current folder, which can't be replaced; name another one" in refused("--from", golden, "--to", ".")
    source = shutil.copytree(golden, tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(shutil, "copyfile", lambda *_: os.open("/nowhere/at/all", os.O_RDONLY))
    assert f"{out} can't be written: No such file or directory" in refused("--from", source, "--to", out)
    assert not out.exists() and not list(tmp_path.glob("*partial*"))
    monkeypatch.undo()
    link.symlink_to(empty)
    assert run("--from", golden, "--to", link) == 0 and (empty / "config.json").is_file()

"""Writes a model as a Hugging Face folder: a run's checkpoint, another such folder, or a GGUF file.

    python -m asyncthink_jax.convert --from runs/countdown_tiny --to exported
    python -m asyncthink_jax.convert --from model.gguf --to model --dtype float32

transformers and vLLM open what it writes. The tokenizer's files are copied beside the weights; a GGUF file has none to
copy. Exit codes: 0 done, 2 for bad input (one line on stderr).
"""

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import CHECKPOINTS, ConfigError, MeshConfig, is_run, load
from asyncthink_jax.shown import complain
from asyncthink_jax.untrusted.files import check_inside, read_json

FLAGS = flags.FLAGS
DTYPES = ("bfloat16", "float32")
flags.DEFINE_string("from", None, "Folder of a run, folder of safetensors files, .gguf file, gs://.., or a hub id.")
flags.DEFINE_string("to", None, "Folder that is written; new or empty.")
flags.DEFINE_string("dtype", "bfloat16", f"One of {', '.join(DTYPES)}: of the tensors that are written.")
# Other commands have the same flag, and a process of tests imports several.
flags.DEFINE_string("checkpoint", "best", f"One of {', '.join(CHECKPOINTS)}, of a run.", allow_override=True)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help comes sooner.
    import jax

    from asyncthink_jax.model.tensors import WeightsError

    jax.config.update("jax_platforms", "cpu")  # nothing is computed, and a model may be larger than an accelerator
    try:
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --")
        for name in ("from", "to"):
            if FLAGS[name].value is None:
                raise ConfigError(f"--{name} is missing; see --help")
        for name, choices in (("checkpoint", CHECKPOINTS), ("dtype", DTYPES)):
            if FLAGS[name].value not in choices:
                raise ConfigError(f"--{name} {FLAGS[name].value!r} is not one of {', '.join(choices)}")
        source: Any = FLAGS["from"].value
        target = Path(FLAGS.to)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"--to {target} is not empty; name a new folder")
        if is_run(Path(source)):
            _convert_run(Path(source), target)
        elif FLAGS["checkpoint"].present:
            raise ConfigError(f"--checkpoint is of a run, and --from {source} holds none")
        else:
            _convert_weights(source, target)
    except (ConfigError, WeightsError) as error:
        complain(f"error: {error}")
        return getattr(error, "exit_code", 2)
    print(f"wrote {target}")
    return 0


def _convert_run(workdir: Path, target: Path) -> None:
    # Imported late, so that bad input is reported sooner.
    from asyncthink_jax.model.save_hf import save_hf
    from asyncthink_jax.play.run_model import run_model
    from asyncthink_jax.storage.checkpoint import CheckpointError
    from asyncthink_jax.storage.restore import restore_params

    config = dataclasses.replace(load(workdir / "config.json"), mesh=MeshConfig())
    built = run_model(config, workdir)
    try:
        params = restore_params(built.abstract_params(), workdir, FLAGS.checkpoint)
    except CheckpointError as error:
        raise ConfigError(str(error), error.exit_code) from error
    tokenizer = built.tokenizer
    ends = [i for i in tokenizer.stop_ids if i < built.model.vocab_size]
    eos = ends if len(ends) > 1 else tokenizer.eos_id
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": eos, "pad_token_id": tokenizer.pad_id}
    save_hf(
        target,
        built.dense_model,
        built.dense_params(params),
        FLAGS.dtype,
        context=(built.weights and built.weights.context) or config.rollout.context,
        special_tokens=ids,
        beside=_tokenizer_files(workdir),
        tokenizer_config=_tokenizer_config(workdir),
    )


def _convert_weights(source: str, target: Path) -> None:
    from asyncthink_jax.model.save_hf import save_hf
    from asyncthink_jax.model.weights import load as load_weights
    from asyncthink_jax.model.weights import open_weights

    weights = open_weights(source)
    beside = _tokenizer_files(weights.path) if weights.path.is_dir() else ()
    length: dict[str, Any] = {} if weights.context is None else {"context": weights.context}
    save_hf(
        target,
        weights.config,
        load_weights(weights, dtype=FLAGS.dtype),
        FLAGS.dtype,
        special_tokens=weights.special_tokens,
        beside=beside,
        **length,
    )


def _tokenizer_files(folder: Path) -> list[Path]:
    from asyncthink_jax.data.tokenizer_files import TOKENIZER_FILES

    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    try:
        for path in found:  # what one links to is copied, and may be anything that the user can read
            check_inside(path, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return found


def _tokenizer_config(workdir: Path) -> dict[str, Any]:
    """What the tokenizer_config.json of an exported run says, so that transformers reads the tokenizer as we do."""
    saved = workdir / "tokenizer_config.json"
    config = read_json(saved) if saved.is_file() else {}
    # Ids stand in config.json and generation_config.json, where other programs look for them.
    config = {name: value for name, value in config.items() if not name.endswith("_token_id")}
    if (workdir / "tokenizer.json").is_file():
        return {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
    if config:  # of a released SentencePiece model
        return config
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    plain = dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"), False)
    return {"tokenizer_class": "LlamaTokenizer", **plain, **special}


if __name__ == "__main__":
    command.run(main, overridable=False)

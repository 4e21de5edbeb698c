"""The tokenizer and the prompts of a run: made for a new one, taken from the run that it starts from, or its own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from asyncthink_jax.config import Config, ConfigError, saved_config
from asyncthink_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from asyncthink_jax.data.tokenizer import Tokenizer, organizer_tokens, prompts_for, worker_tokens
from asyncthink_jax.data.tokenizer_files import TOKENIZER_FILES, load_tokenizer
from asyncthink_jax.files import SUMS, FileError, damaged, read_sums, record_sums, replacing, sum_of
from asyncthink_jax.model.weights import Weights
from asyncthink_jax.protocol.grammar import Grammar, tag_literals
from asyncthink_jax.protocol.prompts import TINY, Prompts
from asyncthink_jax.shown import complain
from asyncthink_jax.storage.start import Start
from asyncthink_jax.tasks.task import Problem, Task


def texts_of_run(config: Config, workdir: Path, grammar: Grammar, weights: Weights | None) -> tuple[Tokenizer, Prompts]:
    """The tokenizer and the prompts of the run in `workdir`; a new run keeps its own there.

    Raises ValueError, in one line, where they don't fit the task.
    """
    if (workdir / "config.json").exists():  # else what is there is what a refused command has left
        return _learned(config, workdir, grammar, weights)
    return _new(config, workdir, grammar, weights)


def _new(config: Config, folder: Path, grammar: Grammar, weights: Weights | None) -> tuple[Tokenizer, Prompts]:
    """Those that a new run starts with, written into a folder."""
    if config.start_from:
        tokenizer, prompts = _learned(config, Start.of(config).folder(config), grammar, weights)
        tokenizer.save(folder)
    elif weights is None:
        symbols = tag_literals(config.pool.max_forks)
        texts = config.task.tokenizer_texts()
        tokenizer, prompts = SentencePieceTokenizer.train(texts, symbols, folder / "tokenizer.model"), TINY
    else:
        tokenizer = load_tokenizer(weights.path)
        prompts = prompts_for(tokenizer, grammar, config.task.instructions)
        tokenizer.save(folder)
    prompts.save(folder / "prompts.json")
    return tokenizer, prompts


def _learned(config: Config, run: Path, grammar: Grammar, weights: Weights | None) -> tuple[Tokenizer, Prompts]:
    """Those that the model of a run has learned with; asked another task, it gets that one's prompts."""
    saved = saved_config(run / "config.json")
    _mend(saved, run, weights)
    tokenizer: Tokenizer = load_tokenizer(run)
    learned = saved.task
    if weights is None and config.task.name != learned.name:  # it cannot even read what it is asked
        raise ValueError(
            f"task.name is {config.task.name}, but {run} has a tokenizer of the words of {learned.name} alone; "
            "only a run from a pretrained model can be asked another task"
        )
    if weights is None:
        check_words(tokenizer, config.task)
    elif config.task.instructions != learned.instructions:
        return tokenizer, prompts_for(tokenizer, grammar, config.task.instructions)
    kept = run / "prompts.json"
    if weights is not None and not kept.exists():
        raise FileError(f"{kept} is missing, with the prompts that the run was trained with; {_COPY}")
    return tokenizer, Prompts.load(kept) if kept.exists() else TINY


# ----------------------------------------------------------------------------------------------------------- damage


_COPY = "put it back from a copy"


def record_set_up(workdir: Path) -> None:
    """Writes down what the files are that a run begins with, so that a damaged one is known, and can be made again."""
    names = ("config.json", "prompts.json", *TOKENIZER_FILES)
    record_sums(workdir, [name for name in names if (workdir / name).is_file()])


def _mend(saved: Config, run: Path, weights: Weights | None) -> None:
    """Makes damaged files of the tokenizer and the prompts again, if that gives the very bytes that were there.

    Raises FileError, which names the file, where it doesn't.
    """
    lost, sums = damaged(run), read_sums(run)
    if not lost:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        with contextlib.suppress(ValueError, OSError):  # a pretrained model that is no longer there, say
            _new(saved, made, saved.grammar, weights)
        for name in lost:
            path, again = run / name, sum_of(made / name)
            if again == sums[name]:
                with replacing(path) as draft:
                    shutil.copyfile(made / name, draft)
                complain(f"warning: {path} was damaged or missing, and has been made again, byte for byte")
            elif again is None or again != sum_of(path):  # else it is the sum that is damaged
                raise FileError(
                    f"{path} is {'not what it was when the run began' if path.exists() else 'missing'}; {_COPY} (or "
                    f"remove {run / SUMS}, if it was changed on purpose)"
                )


# ------------------------------------------------------------------------------------------------------------ checks


def check_prompts(
    splits: Mapping[str, Sequence[Problem]], tokenizer: Tokenizer, prompts: Prompts, config: Config
) -> None:
    """Raises ConfigError for prompts with which there is no room to decode.

    A run would end when such a question's turn comes; with such a frame of sub-queries each worker would end unheard.
    """
    context = config.rollout.context
    own, frame = config.rollout.worker_context, sum(map(len, worker_tokens(tokenizer, prompts)))
    if config.grammar.capacity > 1 and frame >= (own or context):
        name = "worker_context" if own else "context"
        raise ConfigError(
            f"a worker's prompt has {frame} tokens without its sub-query, and rollout.{name} is {own or context}, for "
            "it and all that follows: raise it"
        )
    around = len(organizer_tokens(tokenizer, prompts, ""))
    for name, problems in splits.items():
        # A token has at least a byte, so that few questions have to be encoded.
        long = [problem.query for problem in problems if around + len(problem.query.encode()) >= context]
        longest = max((len(organizer_tokens(tokenizer, prompts, query)) for query in long), default=0)
        if longest >= context:
            raise ConfigError(
                f"task: a prompt of split {name} has {longest} tokens, and rollout.context is {context}, for it and "
                "all that follows: raise it, or leave out long questions"
            )


def check_words(tokenizer: Tokenizer, task: Task) -> None:
    """Raises ValueError for a task with words that the tokenizer was not trained on: its fields are not the run's."""
    if isinstance(tokenizer, SentencePieceTokenizer) and (words := tokenizer.lacks(task.tokenizer_texts())):
        raise ValueError(
            f"task: the tokenizer of this run has no token for {len(words)} words of {task.name}, {words[0]!r} among "
            "them; a run from scratch can be asked only for what is in the words that it was trained on"
        )

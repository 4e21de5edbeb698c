"""Has another language model write demonstrations for the cold start, by any OpenAI-compatible endpoint.

    export OPENAI_API_KEY=..          # and OPENAI_BASE_URL=http://localhost:8000/v1, if it isn't OpenAI's
    python -m asyncthink_jax.synthesize --config experiments/countdown_qwen3.py --out demonstrations.jsonl --dry_run
    python -m asyncthink_jax.synthesize --config experiments/countdown_qwen3.py --out demonstrations.jsonl

Of each problem it asks two questions (paper, section 3): for independent fragments of the thinking, then for what the
organizer and its workers write along an action sequence that is sampled at random. What is well-formed, within the
budgets and right is kept, for `train --config.data.demonstrations=demonstrations.jsonl`. Beside it lie the answers
(`demonstrations.answers.jsonl`), which the same command takes up where it was stopped, and what was dropped, with the
reasons (`demonstrations.dropped.jsonl`). Exit codes: 0 done, 1 if questions had no answer (the same command asks them
again), 2 for bad input or an endpoint that takes no questions (one line on stderr), 130 when interrupted.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from asyncthink_jax import command
from asyncthink_jax.config import Config, ConfigError, load
from asyncthink_jax.shown import complain, harmless_lines

FLAGS = flags.FLAGS
# Several commands name an experiment, and a process of tests imports them all.
flags.DEFINE_string("config", None, "Experiment file, or the config.json of a run.", allow_override=True)
flags.DEFINE_string("out", None, "File of the demonstrations, .jsonl; two more of its name are written beside it.")
flags.DEFINE_integer("training_problems", 1000, "Ask about the first N problems of the training split; 0 = all.")
flags.DEFINE_string("llm", "gpt-4o", "Model that writes, by the endpoint's name of it.")
flags.DEFINE_string("prompts", None, "Folder with other instructions and examples than the package's.")
flags.DEFINE_string("tokenizer", None, "Of the model that will be trained; default what the config names.")
flags.DEFINE_integer("concurrency", 8, "Problems that are asked about at the same time.")
flags.DEFINE_integer("tries", 6, "Times that a question is asked before it has failed.")
flags.DEFINE_float("timeout", 180, "Seconds that an answer may take.")
flags.DEFINE_float("llm_temperature", None, "Of the model that writes; default the endpoint's.")
flags.DEFINE_integer("max_answer_tokens", 4096, "Tokens that an answer may have.")
flags.DEFINE_string("prices", None, "IN,OUT: USD a million tokens, for the estimate and the count.")
flags.DEFINE_bool("keep_wrong", False, "Keep traces whose answer isn't right.")
flags.DEFINE_bool("keep_unplanned", False, "Keep traces with other forks and joins than those asked for.")
flags.DEFINE_bool("dry_run", False, "Show the estimate and the questions about one problem; ask nothing.")


def main(argv: list[str], overrides: list[str]) -> int:
    """Runs the command; returns its exit code."""
    logging.set_verbosity(logging.WARNING)
    try:
        _check_flags(argv)
        return _synthesize(load(FLAGS.config, overrides))
    except ConfigError as error:
        complain(f"error: {error}")
        return 2


def _check_flags(argv: Sequence[str]) -> None:
    """Raises ConfigError for what is wrong whatever the config is."""
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}; options start with --")
    for name in ("config", "out"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; see --help")
    out = Path(FLAGS.out)
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out}: the file's name must end in .jsonl")
    for path in _files(out):
        try:
            path.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:  # a name that is too long, say
            raise ConfigError(f"--out {out}: {error.strerror}") from error
        else:
            if path.is_dir():
                raise ConfigError(f"--out {path} is a folder; name a file")
            if path.exists() and not path.is_file():
                raise ConfigError(f"--out {path} is no file that can be written and read again")
        parent = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
        if not parent.is_dir():
            raise ConfigError(f"--out {out}: there is no folder {parent}; make it, or name another one")
    for name, least in (("training_problems", 0), ("concurrency", 1), ("tries", 1), ("max_answer_tokens", 1)):
        if getattr(FLAGS, name) < least:
            raise ConfigError(f"--{name} is {getattr(FLAGS, name)}, but must be at least {least}")
    if not 0 < FLAGS.timeout < math.inf:
        raise ConfigError(f"--timeout is {FLAGS.timeout:g}, but must be a number of seconds above 0")
    if FLAGS.llm_temperature is not None and not 0 <= FLAGS.llm_temperature < math.inf:
        raise ConfigError(f"--llm_temperature is {FLAGS.llm_temperature:g}, but must be a number from 0")
    if not FLAGS.llm.strip():
        raise ConfigError("--llm is empty; it is the endpoint's name of a model")
    if not FLAGS.llm.isprintable():
        raise ConfigError(f"--llm {FLAGS.llm!r} holds characters that no name has")


def _files(out: Path) -> tuple[Path, Path, Path]:
    """Of the demonstrations, the answers and what was dropped."""
    return out, out.with_suffix(".answers.jsonl"), out.with_suffix(".dropped.jsonl")


def _synthesize(config: Config) -> int:
    # Imported late, so that bad input is reported sooner.
    from asyncthink_jax.files import locked, replace_text
    from asyncthink_jax.synthesis import summary
    from asyncthink_jax.synthesis.asking import FAILED

    prices = _prices()
    out, answers, dropped = _files(Path(FLAGS.out))
    if FLAGS.dry_run:
        synthesis = _prepared(config, answers)
        _print(summary.before(synthesis.estimate(), FLAGS.llm, prices))
        _print(summary.questions(synthesis))
        return 0
    try:
        answers.touch()
    except OSError as error:
        raise ConfigError(f"--out {out}: {answers.name} can't be written beside it: {error.strerror}") from error
    with locked(answers, wait=False) as alone:
        if not alone:
            raise ConfigError(f"--out {out} is in use by another process; wait for it, or name another file")
        try:
            synthesis = _prepared(config, answers)
            code = _ask(synthesis, prices)
        finally:
            if not answers.stat().st_size:
                answers.unlink()  # refused, with nothing asked: no file is left
        results = [synthesis.results[place] for place in sorted(synthesis.results)]
        # Else the files of the last time have more in them, or nothing is known of any problem.
        if synthesis.caught_up and any(result.reason != FAILED for result in results):
            for path, text in ((out, summary.kept_lines(results)), (dropped, summary.dropped_lines(results))):
                try:
                    replace_text(path, text)
                except OSError as error:
                    raise ConfigError(
                        f"{path} can't be written: {error.strerror}; all answers are in {answers}, and the same "
                        "command goes on from there"
                    ) from error
            print(f"wrote {out}", flush=True)
    return code


def _print(lines: Iterable[str]) -> None:
    """What quotes problems, examples and an endpoint."""
    print(*map(harmless_lines, lines), sep="\n", flush=True)


def _prices() -> Any:
    """Raises ConfigError for prices that are none."""
    from asyncthink_jax.synthesis.token_costs import Prices, listed_prices

    if FLAGS.prices is None:
        return listed_prices(FLAGS.llm)
    try:
        prices = Prices(*map(float, FLAGS.prices.split(",")))
        if not all(0 <= price < math.inf for price in prices):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"--prices {FLAGS.prices!r} is not two numbers like 2.5,10 (USD a million tokens)") from None
    return prices


def _prepared(config: Config, answers: Path) -> Any:
    """The run, without an endpoint."""
    from asyncthink_jax.synthesis.asking import prepared

    settings: dict[str, Any] = {"model": FLAGS.llm, "max_completion_tokens": FLAGS.max_answer_tokens}
    if FLAGS.llm_temperature is not None:
        settings["temperature"] = FLAGS.llm_temperature
    return prepared(
        config,
        answers,
        count=FLAGS.training_problems,
        settings=settings,
        prompts=Path(FLAGS.prompts) if FLAGS.prompts else None,
        tokenizer=FLAGS.tokenizer,
        keep_wrong=FLAGS.keep_wrong,
        keep_unplanned=FLAGS.keep_unplanned,
    )


def _ask(synthesis: Any, prices: Any) -> int:
    """Asks what is left to ask, and says what came of it; returns the exit code."""
    from asyncthink_jax.storage.metrics import Progress
    from asyncthink_jax.synthesis import summary
    from asyncthink_jax.synthesis.asking import FAILED, StoppedError, until_stopped
    from asyncthink_jax.synthesis.endpoint import Endpoint, EndpointError

    estimate = synthesis.estimate()
    _print(summary.before(estimate, FLAGS.llm, prices))
    endpoint = Endpoint(timeout_s=FLAGS.timeout, tries=FLAGS.tries) if estimate.to_ask else None
    complaint, code, kept = "", 0, 0
    synthesis.journal.open()
    with Progress({"problems": estimate.problems}) as progress:

        def show(result: Any) -> None:
            nonlocal kept
            kept += result.script is not None
            progress.update("problems", len(synthesis.results), {"kept": kept / len(synthesis.results)})

        async def asking() -> None:
            try:
                await synthesis.run(endpoint, FLAGS.concurrency, show)
            finally:
                if endpoint is not None:
                    await endpoint.close()

        try:
            until_stopped(asking())
        except StoppedError:
            complaint, code = "interrupted; the same command goes on from here", 130
        except EndpointError as error:
            complaint, code = f"error: {error}", 2
        finally:
            synthesis.journal.close()
    if code != 2 or synthesis.results:
        _print(summary.after(synthesis, prices, endpoint.retries if endpoint else 0))
    if complaint:
        complain(complaint)
        return code
    return 1 if any(result.reason == FAILED for result in synthesis.results.values()) else 0


if __name__ == "__main__":
    command.run(main)

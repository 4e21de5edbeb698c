"""The problems, the two questions about each, many at a time.

What a question says depends on the config, the prompts and the problem alone (a plan's random numbers are the problem's
own), and answers come out of the journal before anything is asked. So a run that was stopped goes on where it was, and
one that is finished only judges again, which costs nothing: for other switches of the judge, say.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asyncthink_jax.config import Config, ConfigError
from asyncthink_jax.synthesis.endpoint import Endpoint, EndpointError, FailedError
from asyncthink_jax.synthesis.journal import Answer, Journal
from asyncthink_jax.synthesis.judge import Judge, reader
from asyncthink_jax.synthesis.plans import Plan, sample_plan
from asyncthink_jax.synthesis.questions import PACKAGED, Messages, Questions
from asyncthink_jax.synthesis.questions import load as load_questions
from asyncthink_jax.synthesis.reading import Dropped, read_fragments, without_reasoning
from asyncthink_jax.synthesis.token_costs import Tokens, estimated_tokens, mean_output
from asyncthink_jax.tasks.task import Script, Task

FAILED = "failed"  # the reason of a problem that has no answers yet
FAILURES_IN_A_ROW = 10  # questions without an answer, one after the other, that end a run

Question = dict[str, Any]  # the arguments of a chat completion


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a problem.

    Attributes:
      script: the demonstration; None if there is none.
      reason: then, one of `judge.py:REASONS`, or FAILED. detail: what is wrong where.
      texts: the answers that there are, of step 1 and of step 2.
    """

    problem: Any
    script: Script | None = None
    reason: str = ""
    detail: str = ""
    texts: tuple[str, ...] = ()


class Estimate(NamedTuple):
    """What a run will take. tokens: of the questions that are left to ask; answered: questions that aren't."""

    problems: int
    answered: int
    to_ask: int
    tokens: Tokens


@dataclasses.dataclass
class Synthesis:
    """A run: what is asked about which problems, and what has come of it.

    Attributes:
      settings: of every question, beside its messages: model, max_completion_tokens ..
      seed: of the plans.
      results: of the problems that are through, by their places.
      used: all answers about these. fresh: those of them that have been asked for, and not found.
      caught_up: whether all that the journal had before is among the results.
    """

    problems: Sequence[Any]
    questions: Questions
    judge: Judge
    journal: Journal
    settings: Question
    seed: int
    results: dict[int, Result] = dataclasses.field(default_factory=dict)
    used: list[Answer] = dataclasses.field(default_factory=list)
    fresh: list[Answer] = dataclasses.field(default_factory=list)
    caught_up: bool = False

    def first(self, problem: Any) -> Question:
        """The question for the fragments of a problem."""
        return self._question(self.questions.ask_fragments(problem.query))

    def second(self, problem: Any, fragments: Sequence[str]) -> tuple[Question, Plan]:
        """The question for its traces, and the plan in it."""
        digest = hashlib.sha256(problem.query.encode("utf-8", "replace")).digest()
        rng = np.random.default_rng([self.seed, *digest[:8]])
        plan = sample_plan(len(fragments), self.judge.grammar, rng)
        return self._question(self.questions.ask_traces(problem.query, list(fragments), plan)), plan

    def _question(self, messages: Messages) -> Question:
        return {**self.settings, "messages": messages}

    def estimate(self) -> Estimate:
        """What is left to ask, and the tokens of that: in as the prompts are long, out as in `costs.mean_output`."""
        answered, missing = [0, 0], [0, 0]  # of the two steps
        tokens_in = 0
        answers: tuple[list[Answer], list[Answer]] = ([], [])
        for problem in self.problems:
            first = self.first(problem)
            found = self.journal.find(first)
            if found is None:
                missing[0] += 1
                tokens_in += _length(first)
                fragments = self._typical_fragments()
            else:
                answered[0] += 1
                answers[0].append(found)
                try:
                    fragments = read_fragments(_whole(found))
                except Dropped:
                    continue
            second, _ = self.second(problem, fragments)
            found = self.journal.find(second)
            if found is None:
                missing[1] += 1
                tokens_in += _length(second)
            else:
                answered[1] += 1
                answers[1].append(found)
        shown = [[one.found for one in self.questions.examples], [one.written for one in self.questions.examples]]
        tokens_out = sum(n * mean_output(had, texts) for n, had, texts in zip(missing, answers, shown, strict=True))
        return Estimate(len(self.problems), sum(answered), sum(missing), Tokens(tokens_in, tokens_out))

    def _typical_fragments(self) -> list[str]:
        """In place of fragments that nobody has found yet: those of the longest example, or words of such a length."""
        longest = max((list(one.fragments) for one in self.questions.examples), key=len, default=[])
        return longest or ["(a fragment that step 1 finds)", "(another fragment that step 1 finds)"]

    async def run(self, endpoint: Endpoint | None, concurrency: int, on_result: Callable[[Result], None]) -> None:
        """Fills `results`, `concurrency` problems at a time. endpoint: None if `estimate` leaves nothing to ask.

        Raises EndpointError if the run is over before its end. What has been answered is in the journal then, and if
        it is cancelled.
        """
        failures_in_a_row = 0

        async def work(waiting: Iterator[int]) -> None:
            nonlocal failures_in_a_row
            for place in waiting:
                had = len(self.fresh)
                result = await self._through(self.problems[place], endpoint, judging)
                self.results[place] = result
                on_result(result)
                if len(self.fresh) > had:
                    failures_in_a_row = 0
                elif result.reason == FAILED:
                    failures_in_a_row += 1
                    if failures_in_a_row >= FAILURES_IN_A_ROW:
                        raise EndpointError(f"{failures_in_a_row} questions in a row failed, the last: {result.detail}")

        places = range(len(self.problems))
        answered = {place for place in places if self._is_answered(self.problems[place])}
        # Judged beside the loop, one at a time, so that answers of others are taken meanwhile.
        with _one_thread() as judging:
            await work(iter(sorted(answered)))
            self.caught_up = True
            waiting = iter([place for place in places if place not in answered])  # one for all: each takes the next
            tasks = [asyncio.create_task(work(waiting)) for _ in range(min(concurrency, len(self.problems)))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _is_answered(self, problem: Any) -> bool:
        """Whether the journal has all that is asked about a problem."""
        first = self.journal.find(self.first(problem))
        if first is None:
            return False
        try:
            fragments = read_fragments(_whole(first))
        except Dropped:
            return True
        return self.journal.find(self.second(problem, fragments)[0]) is not None

    async def _through(self, problem: Any, endpoint: Endpoint | None, judging: ThreadPoolExecutor) -> Result:
        """Both steps of a problem, and the verdict."""
        texts: list[str] = []
        try:
            fragments = read_fragments(await self._answered(self.first(problem), endpoint, texts))
            question, plan = self.second(problem, fragments)
            text = await self._answered(question, endpoint, texts)
            loop = asyncio.get_running_loop()
            script = await loop.run_in_executor(judging, self.judge.script, problem, plan, text)
            return Result(problem, script, texts=tuple(texts))
        except Dropped as dropped:
            return Result(problem, None, dropped.reason, dropped.detail, tuple(texts))
        except FailedError as error:
            return Result(problem, None, FAILED, str(error), tuple(texts))

    async def _answered(self, question: Question, endpoint: Endpoint | None, texts: list[str]) -> str:
        """The text of the answer, from the journal or from the endpoint. Raises Dropped for one that isn't whole."""
        answer = self.journal.find(question)
        if answer is None:
            assert endpoint is not None, "the estimate left nothing to ask"
            answer = await endpoint.ask(question)
            self.journal.add(question, answer)
            self.fresh.append(answer)
        self.used.append(answer)
        texts.append(answer.text)
        return _whole(answer)


def _whole(answer: Answer) -> str:
    """The text of an answer. Raises Dropped for one that ended early, or holds none."""
    if answer.finish == "length":
        raise Dropped("cut_off", f"after {answer.output_tokens or 'too many'} tokens")
    if answer.finish == "content_filter":
        raise Dropped("refused", "a filter of the endpoint ended it")
    if not answer.text.strip():
        raise Dropped("refused", f"it is empty, and ended by {answer.finish or 'nothing'}")
    if not without_reasoning(answer.text).strip():
        raise Dropped("only_reasoning", f"nothing stands behind its reasoning, ended by {answer.finish or 'nothing'}")
    return answer.text


def _length(question: Question) -> int:
    return estimated_tokens(message["content"] for message in question["messages"])


@contextlib.contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    executor = ThreadPoolExecutor(max_workers=1)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def prepared(
    config: Config,
    answers: Path,
    *,
    count: int,
    settings: Question,
    prompts: Path | None = None,
    tokenizer: str | None = None,
    keep_wrong: bool = False,
    keep_unplanned: bool = False,
) -> Synthesis:
    """The run that a config names, with all that costs nothing checked.

    Args:
      answers: the journal's file; it need not be there.
      count: of the problems, 0 = all of the training split.
      prompts: their folder; default the package's.
      tokenizer: see `judge.reader`.
      The others are those of `Synthesis` and `Judge`.

    Raises:
      ConfigError: something is wrong with prompts, tokenizer, problems or old answers; it says what and where.
    """
    task, grammar = config.task, config.grammar
    questions = load_questions(prompts or PACKAGED, task.instructions, grammar)
    read_by = reader(config, grammar, tokenizer)
    return Synthesis(
        problems=training_problems(task, count, config.data.skip_bad),
        questions=questions,
        judge=Judge(task, grammar, config, *read_by, keep_wrong, keep_unplanned),
        journal=Journal(answers),
        settings=settings,
        seed=config.seed,
    )


def training_problems(task: Task[Any], count: int, skip_bad: bool = False) -> list[Any]:
    """The first `count` problems of the training split (0 = all) in the order of a run, each query once.

    Raises ConfigError if the task can't be read, or has fewer.
    """
    try:
        problems = list({problem.query: problem for problem in task.splits(skip_bad)["train"]}.values())
    except (ValueError, OSError) as error:
        raise ConfigError(f"task: {error}") from error
    if not problems:
        raise ConfigError("task: there is no problem in the training split")
    if count > len(problems):
        raise ConfigError(f"--training_problems {count}: the training split has {len(problems)}; 0 takes all of them")
    return problems[: count or None]


class StoppedError(Exception):
    """The user asked to stop, by Ctrl-C or SIGTERM."""


def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Runs it. Ctrl-C and SIGTERM cancel it wherever it waits, and then StoppedError is raised."""

    async def listening() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C alone
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.cancel)
        await work

    try:
        asyncio.run(listening())
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise StoppedError from None

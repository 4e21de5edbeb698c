"""What a run says before it asks and after it has asked, and the files of its results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asyncthink_jax.synthesis.asking import FAILED, Estimate, Result, Synthesis
from asyncthink_jax.synthesis.judge import REASONS
from asyncthink_jax.synthesis.questions import Messages
from asyncthink_jax.synthesis.token_costs import Prices, counted


def before(estimate: Estimate, model: str, prices: Prices | None) -> Iterator[str]:
    """What will be asked, and what it will cost."""
    yield f"{estimate.problems:,} problems, two questions each, to {model}"
    if estimate.answered:
        yield f"answered already: {estimate.answered:,} questions"
    if not estimate.to_ask:
        return
    yield f"to ask: {estimate.to_ask:,} questions, about {estimate.tokens.to_text(prices)}"
    if prices is None:
        yield f"no price of {model} is known here; --prices=IN,OUT gives it in USD a million tokens"
    else:
        yield f"at {prices.input:g} USD a million tokens in and {prices.output:g} out; --prices=IN,OUT says otherwise"


def questions(synthesis: Synthesis) -> Iterator[str]:
    """Both questions about the first problem, whole; the second with stand-ins for fragments that nobody has found."""
    problem = synthesis.problems[0]
    stand_ins = ["(what step 1 finds)", "(and what else it finds)", "(and what else)"]
    for step, question in ((1, synthesis.first(problem)), (2, synthesis.second(problem, stand_ins)[0])):
        messages: Messages = question["messages"]
        yield f"--- question {step}"
        for message in messages:
            yield f"--- {message['role']}"
            yield message["content"]
    yield "---"


def after(synthesis: Synthesis, prices: Prices | None, retries: int) -> Iterator[str]:
    """What came of it: the table of why traces were dropped, and the count."""
    results = list(synthesis.results.values())
    reasons = Counter(result.reason for result in results if result.script is None)
    kept, failed = len(results) - reasons.total(), reasons.pop(FAILED, 0)
    yield f"{kept:,} kept, {reasons.total():,} dropped, {failed:,} failed, of {len(synthesis.problems):,} problems"
    judged = kept + reasons.total()
    if reasons:
        yield from _table(reasons, judged)
    if failed:
        detail = next(result.detail for result in results if result.reason == FAILED)
        yield f"failed, one of them: {detail}"
    again = f", {retries:,} asked again" if retries else ""
    yield f"answers now: {len(synthesis.fresh):,}{again}; {counted(synthesis.fresh).to_text(prices)}"
    yield f"answers in all: {len(synthesis.used):,}; {counted(synthesis.used).to_text(prices)}"
    if uncounted := sum(None in (one.input_tokens, one.output_tokens) for one in synthesis.used):
        yield f"the endpoint counted no tokens of {uncounted:,} of them"


def _table(reasons: Mapping[str, int], judged: int) -> Iterator[str]:
    in_order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    width = max(map(len, (*in_order, "why dropped")))
    yield f"{'why dropped':<{width}}  traces  share"
    for reason in in_order:
        share = 100 * reasons[reason] / judged
        yield f"{reason:<{width}}  {reasons[reason]:>6,}  {share:>4.1f}%  {REASONS[reason]}"


def kept_lines(results: Sequence[Result]) -> str:
    """The file of demonstrations: a `tasks/task.py:Script` a line."""
    return "".join(_line(result.script.to_json()) for result in results if result.script is not None)


def dropped_lines(results: Sequence[Result]) -> str:
    """The file of what was dropped: problem, reason, detail, and the answers of both steps."""
    return "".join(
        _line(
            {
                "problem": result.problem.to_json(),
                "reason": result.reason,
                "detail": result.detail,
                "fragments": next(iter(result.texts), None),
                "traces": next(iter(result.texts[1:]), None),
            }
        )
        for result in results
        if result.script is None and result.reason != FAILED
    )


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"

"""The text around a query and around a sub-query: all that tells one model which of its two roles it plays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from asyncthink_jax.protocol.grammar import Grammar

Render = Callable[[list[dict[str, str]]], str]  # messages with `role` and `content` to the text that the model reads
Example = tuple[str, str]  # a question, and the whole text that should follow
_QUERY, _SUB_QUERY = "{query}", "{sub_query}"


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompt texts; none of them is parsed for tags, so they may explain the protocol with examples.

    Special tokens of a tokenizer stand in them as text. They are meant as such in here alone, not in a query: see
    `data/tokenizer.py:Tokenizer.encode_prompt`.

    Attributes:
      organizer: a template in which `{query}` stands once (other braces are left alone).
      worker_prefix, worker_suffix: what a worker reads before and after its sub-query. They are apart because the
        engine feeds the sub-query's own tokens between them, without a round trip through text.
    """

    organizer: str
    worker_prefix: str
    worker_suffix: str

    def __post_init__(self) -> None:
        if self.organizer.count(_QUERY) != 1:
            raise ValueError("the organizer's prompt must contain {query} exactly once")

    @property
    def around_query(self) -> tuple[str, str]:
        """What the organizer reads before and after its query."""
        before, after = self.organizer.split(_QUERY)
        return before, after

    def for_organizer(self, query: str) -> str:
        """The organizer's prompt for a query."""
        before, after = self.around_query
        return before + query + after

    def for_worker(self, sub_query: str) -> str:
        """A worker's prompt as text: what the engine's tokens spell."""
        return self.worker_prefix + sub_query + self.worker_suffix

    def save(self, path: Path) -> None:
        """Writes JSON. A run keeps it: a chat template may put the date in, or be another one tomorrow."""
        path.write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Prompts:
        """Raises FileNotFoundError, or ValueError that names the file and what is wrong with it."""
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or sorted(values) != sorted(names):
                raise ValueError(f"must be a JSON object of {', '.join(names)}")
            if not all(isinstance(value, str) for value in values.values()):
                raise ValueError("every prompt must be a text")
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


TINY = Prompts(organizer="solve {query} :", worker_prefix="work", worker_suffix=" :")


def chat_prompts(render: Render, grammar: Grammar, task: str = "") -> Prompts:
    """The prompts of a chat model: instructions as the system message, an example as a turn, a query as the user's.

    The example is a turn of its own because small models do as was done before, more than as they are told.

    Args:
      render: a chat template with the model's turn opened, `data/chat.py:ChatTemplate.render`.
      grammar: of the pool. Capacity 1, or no ids, is sequential thinking.
      task: what a problem of the task is and how its answer must look, for the organizer's eyes.

    Raises:
      ValueError: the template doesn't show instructions, example and query, each once and as they are.
    """
    organizer = _rendered(render, organizer_instructions(grammar, task), organizer_example(grammar), _QUERY)
    prefix, suffix = _rendered(render, worker_instructions(), WORKER_EXAMPLE, _SUB_QUERY)
    return Prompts(_QUERY.join(organizer), prefix, suffix)


def base_prompts(grammar: Grammar, task: str = "", begin: str = "") -> Prompts:
    """The prompts of a model without a chat template: instructions, an example, then a question, as one text.

    `begin`: the text of the special token that every text begins with (`Tokenizer.begin`); else as `chat_prompts`.
    """
    thinks = "Organizer" if _has_workers(grammar) else "Thoughts"

    def text(instructions: str, example: Example, asks: str, answers: str, query: str) -> str:
        shown = f"{asks}: {example[0]}\n\n{answers}: {example[1]}"
        return f"{begin}{instructions}\n\n{shown}\n\n{asks}: {query}\n\n{answers}:"

    organizer = text(organizer_instructions(grammar, task), organizer_example(grammar), "Question", thinks, _QUERY)
    worker = text(worker_instructions(), WORKER_EXAMPLE, "Sub-query", "Worker", _SUB_QUERY)
    return Prompts(organizer, *worker.split(_SUB_QUERY))


def _rendered(render: Render, instructions: str, example: Example, query: str) -> tuple[str, str]:
    """What a chat template writes before and after the query. Some have no place for a system message."""
    question, answer = example
    shown = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    asked = [{"role": "user", "content": query}]
    apart = [{"role": "system", "content": instructions}, *shown, *asked]
    as_one = [{"role": "user", "content": f"{instructions}\n\n{question}"}, shown[1], *asked]
    refusal = ""
    for messages in (apart, as_one):
        try:
            text = render(messages)
        except ValueError as error:
            refusal = f": {error}"
            continue
        if instructions in text and answer in text and text.count(query) == 1:
            before, after = text.split(query)
            return before, after
    raise ValueError(f"the chat template must show instructions, example, and {query} once, each as it is{refusal}")


def organizer_instructions(grammar: Grammar, task: str = "") -> str:
    """What an organizer is told: its actions, and the rules by which `protocol/grammar.py` reads them."""
    text = _SEQUENTIAL
    if _has_workers(grammar):
        workers = grammar.capacity - 1
        text = _ORGANIZER.format(
            agents=grammar.capacity,
            workers="one worker" if workers == 1 else f"{workers} workers",
            ids="i is 1" if grammar.max_forks == 1 else f"i is a number from 1 to {grammar.max_forks}",
            limit="One worker is" if workers == 1 else f"At most {workers} workers are",
        )
    return "\n\n".join(part for part in (text, task.strip()) if part)


def organizer_example(grammar: Grammar) -> Example:
    """A question, and the whole text of an organizer (what was joined included) that is well-formed in the pool."""
    if not _has_workers(grammar):
        return _QUESTION, _ALONE
    return _QUESTION, _WITH_TWO if grammar.capacity > 2 and grammar.max_forks > 1 else _WITH_ONE


def worker_instructions() -> str:
    """What a worker is told. It sees its sub-query alone."""
    return _WORKER


def _has_workers(grammar: Grammar) -> bool:
    return grammar.capacity > 1 and grammar.max_forks > 0


_ORGANIZER = """\
You are the organizer of {agents} agents: yourself and {workers}. You think in plain text, and workers can think about \
parts of the question at the same time. You act by writing tags, spelled exactly like this:

<FORK-i>sub-query</FORK-i> hands a sub-query to a worker, who starts on it while you go on writing. {ids}; each number \
can be forked once. The worker sees the sub-query and nothing else, so put everything into it that the worker has to \
know.
<JOIN-i> waits for the worker of FORK-i. What it found is then inserted, with </JOIN-i> after it, and you go on. You \
never write </JOIN-i> yourself.
<ANSWER>answer</ANSWER> gives the final answer and ends your work.

Rules:
- {limit} busy at a time. A worker is busy from its <FORK-i> to your <JOIN-i>, even if it is done earlier: when all \
are busy, join one before you fork again.
- Join only a number that you have forked, and each number once. You may answer without joining everyone.
- Inside <FORK-i>..</FORK-i> and <ANSWER>..</ANSWER> there is plain text and no other tag.
- Use tags to act, never to talk about them. <RETURN> is for workers.
- Fork parts that don't depend on each other, as early as you can, and do a part yourself meanwhile. A question that \
has no such parts needs no worker.
- Always end with <ANSWER>..</ANSWER>."""

_QUESTION = "What is 17 * 23 + 31 * 29?"

_WITH_ONE = """\
The two products don't depend on each other. <FORK-1>What is 17 * 23?</FORK-1> I do the other one: 31 * 29 = 899. \
<JOIN-1>17 * 23 = 391</JOIN-1> The sum is 391 + 899 = 1290. <ANSWER>1290</ANSWER>"""

_WITH_TWO = """\
The two products don't depend on each other. <FORK-1>What is 17 * 23?</FORK-1> <FORK-2>What is 31 * 29?</FORK-2> I \
expect about 400 + 900 = 1300. <JOIN-1>17 * 23 = 391</JOIN-1> <JOIN-2>31 * 29 = 899</JOIN-2> The sum is 391 + 899 = \
1290. <ANSWER>1290</ANSWER>"""

_WORKER = """\
You are a worker: you are given one sub-query, a part of a larger question that you don't see. Think about it step by \
step in plain text, then end with <RETURN>takeaways</RETURN>. Only what stands between these two tags is read by the \
one who asked, so it must say all that you found, in few words. Write <RETURN> once, and no other tag."""

WORKER_EXAMPLE: Example = (
    "What is 17 * 23?",
    "17 * 20 = 340 and 17 * 3 = 51, together 391. <RETURN>17 * 23 = 391</RETURN>",
)

_SEQUENTIAL = """\
Think about the question step by step in plain text, then end with <ANSWER>answer</ANSWER>. Write no other tag."""

_ALONE = "17 * 23 = 391 and 31 * 29 = 899. The sum is 391 + 899 = 1290. <ANSWER>1290</ANSWER>"

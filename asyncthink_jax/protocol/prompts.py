"""The text around a query and around a sub-query: all that tells one model which of its two roles it plays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from asyncthink_jax.protocol.grammar import Grammar

Render = Callable[[list[dict[str, str]]], str]  # messages with `role` and `content` to the text that the model reads
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
    """The prompts of a chat model: instructions as the system message, a query as the user's.

    Args:
      render: a chat template with the model's turn opened, `data/chat.py:ChatTemplate.render`.
      grammar: of the pool. Capacity 1, or no ids, is sequential thinking.
      task: what a problem of the task is and how its answer must look, for the organizer's eyes.

    Raises:
      ValueError: the template doesn't show the instructions and the query, each once and as they are.
    """
    prefix, suffix = _rendered(render, worker_instructions(), _SUB_QUERY)
    return Prompts(_QUERY.join(_rendered(render, organizer_instructions(grammar, task), _QUERY)), prefix, suffix)


def base_prompts(grammar: Grammar, task: str = "", begin: str = "") -> Prompts:
    """The prompts of a model without a chat template: instructions, then a question, as one text.

    `begin`: the text of the special token that every text begins with (`Tokenizer.begin`); else as `chat_prompts`.
    """
    organizer = f"{begin}{organizer_instructions(grammar, task)}\n\nQuestion: {_QUERY}\n\nOrganizer:"
    if grammar.capacity == 1 or grammar.max_forks == 0:
        organizer = organizer.replace("\n\nOrganizer:", "\n\nThoughts:")
    return Prompts(organizer, f"{begin}{worker_instructions()}\n\nSub-query: ", "\n\nWorker:")


def _rendered(render: Render, instructions: str, query: str) -> tuple[str, str]:
    """What a chat template writes before and after the query. Some have no place for a system message."""
    apart = [{"role": "system", "content": instructions}, {"role": "user", "content": query}]
    as_one = [{"role": "user", "content": f"{instructions}\n\n{query}"}]
    refusal = ""
    for messages in (apart, as_one):
        try:
            text = render(messages)
        except ValueError as error:
            refusal = f": {error}"
            continue
        if instructions in text and text.count(query) == 1:
            before, after = text.split(query)
            return before, after
    raise ValueError(f"the chat template must show the instructions, and {query} once, as they are{refusal}")


def organizer_instructions(grammar: Grammar, task: str = "") -> str:
    """What an organizer is told: its actions, the rules by which `protocol/grammar.py` reads them, an example."""
    if grammar.capacity == 1 or grammar.max_forks == 0:
        return "\n\n".join(part for part in (_SEQUENTIAL, task.strip()) if part)
    workers = grammar.capacity - 1
    several = workers > 1 and grammar.max_forks > 1
    text = _ORGANIZER.format(
        agents=grammar.capacity,
        workers="one worker" if workers == 1 else f"{workers} workers",
        ids="i is 1" if grammar.max_forks == 1 else f"i is a number from 1 to {grammar.max_forks}",
        limit="One worker is" if workers == 1 else f"At most {workers} workers are",
        example=_EXAMPLE_OF_TWO if several else _EXAMPLE_OF_ONE,
    )
    return "\n\n".join(part for part in (text, task.strip()) if part)


def worker_instructions() -> str:
    """What a worker is told. It sees its sub-query alone."""
    return _WORKER


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
- Always end with <ANSWER>..</ANSWER>.

Example, for the question "What is 17 * 23 + 31 * 29?":

{example}"""

_EXAMPLE_OF_ONE = """\
The two products don't depend on each other. <FORK-1>What is 17 * 23?</FORK-1> I do the other one: 31 * 29 = 899. \
<JOIN-1>17 * 23 = 391</JOIN-1> The sum is 391 + 899 = 1290. <ANSWER>1290</ANSWER>"""

_EXAMPLE_OF_TWO = """\
The two products don't depend on each other. <FORK-1>What is 17 * 23?</FORK-1> <FORK-2>What is 31 * 29?</FORK-2> I \
expect about 400 + 900 = 1300. <JOIN-1>17 * 23 = 391</JOIN-1> <JOIN-2>31 * 29 = 899</JOIN-2> The sum is 391 + 899 = \
1290. <ANSWER>1290</ANSWER>"""

_WORKER = """\
You are a worker: you are given one sub-query, a part of a larger question that you don't see. Think about it step by \
step in plain text, then end with <RETURN>takeaways</RETURN>. Only what stands between these two tags is read by the \
one who asked, so it must say all that you found, in few words. Write <RETURN> once, and no other tag.

Example, for the sub-query "What is 17 * 23?":

17 * 20 = 340 and 17 * 3 = 51, together 391. <RETURN>17 * 23 = 391</RETURN>"""

_SEQUENTIAL = """\
Think about the question step by step in plain text, then end with <ANSWER>answer</ANSWER>. Write no other tag.

Example, for the question "What is 17 * 23 + 31 * 29?":

17 * 23 = 391 and 31 * 29 = 899. The sum is 391 + 899 = 1290. <ANSWER>1290</ANSWER>"""

"""The text around a query and around a sub-query: all that tells one model which of its two roles it plays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.untrusted.files import parse_json

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
            values = parse_json(path.read_bytes())
            if not isinstance(values, dict) or sorted(values) != sorted(names):
                raise ValueError(f"must be a JSON object of {', '.join(names)}")
            if not all(isinstance(value, str) for value in values.values()):
                raise ValueError("every prompt must be a text")
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


TINY = Prompts(organizer="solve {query} :", worker_prefix="work", worker_suffix=" :")


def chat_prompts(render: Render, grammar: Grammar, task: str = "") -> Prompts:
    """The prompts of a chat model: instructions as the system message, examples as turns, a query as the user's.

    Examples are turns of their own because small models do as was done before, more than as they are told: asked for
    the capital of France, SmolLM2-135M forks after three of them, and not after one.

    Args:
      render: a chat template with the model's turn opened, `data/chat.py:ChatTemplate.render`.
      grammar: of the pool. Capacity 1, or no ids, is sequential thinking.
      task: what a problem of the task is and how its answer must look, for the organizer's eyes.

    Raises:
      ValueError: the template doesn't show instructions, examples and query, each once and as they are.
    """
    organizer = _rendered(render, organizer_instructions(grammar, task), organizer_examples(grammar), _QUERY)
    prefix, suffix = _rendered(render, worker_instructions(), WORKER_EXAMPLES, _SUB_QUERY)
    return Prompts(_QUERY.join(organizer), prefix, suffix)


def base_prompts(grammar: Grammar, task: str = "", begin: str = "") -> Prompts:
    """The prompts of a model without a chat template: instructions, examples, then a question, as one text.

    `begin`: the text of the special token that every text begins with (`Tokenizer.begin`); else as `chat_prompts`.
    """

    def text(instructions: str, examples: Sequence[Example], asks: str, answers: str, query: str) -> str:
        shown = [f"{asks}: {question}\n\n{answers}: {answer}\n\n" for question, answer in examples]
        return f"{begin}{instructions}\n\n{''.join(shown)}{asks}: {query}\n\n{answers}:"

    thinks = "Organizer" if _has_workers(grammar) else "Thoughts"
    organizer = text(organizer_instructions(grammar, task), organizer_examples(grammar), "Question", thinks, _QUERY)
    worker = text(worker_instructions(), WORKER_EXAMPLES, "Sub-query", "Worker", _SUB_QUERY)
    return Prompts(organizer, *worker.split(_SUB_QUERY))


def _rendered(render: Render, instructions: str, examples: Sequence[Example], query: str) -> tuple[str, str]:
    """What a chat template writes before and after the query. Some have no place for a system message."""
    turns = [
        {"role": role, "content": text}
        for example in examples
        for role, text in zip(("user", "assistant"), example, strict=True)
    ]
    turns.append({"role": "user", "content": query})
    apart = [{"role": "system", "content": instructions}, *turns]
    as_one = [{"role": "user", "content": f"{instructions}\n\n{turns[0]['content']}"}, *turns[1:]]
    refusal = ""
    for messages in (apart, as_one):
        try:
            text = render(messages)
        except ValueError as error:
            refusal = f": {error}"
            continue
        if all(one in text for one in (instructions, *(answer for _, answer in examples))) and text.count(query) == 1:
            before, after = text.split(query)
            return before, after
    raise ValueError(f"the chat template must show instructions, examples, and {query} once, each as it is{refusal}")


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


def organizer_examples(grammar: Grammar) -> tuple[Example, ...]:
    """Questions, and the whole text of an organizer (what was joined included) that is well-formed in the pool."""
    if not _has_workers(grammar):
        return _ALONE
    return (*(_WITH_TWO if grammar.capacity > 2 and grammar.max_forks > 1 else _WITH_ONE), _WITH_ANY)


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

_PRODUCTS, _ITALY = "What is 17 * 23 + 31 * 29?", "What is the capital of Italy, and which river flows through it?"

_WITH_ONE: tuple[Example, ...] = (
    (
        _PRODUCTS,
        "<FORK-1>What is 17 * 23?</FORK-1> I do the other one: 31 * 29 = 899. <JOIN-1>17 * 23 = 391</JOIN-1> The sum "
        "is 391 + 899 = 1290. <ANSWER>1290</ANSWER>",
    ),
    (
        _ITALY,
        "<FORK-1>Which river flows through Rome?</FORK-1> The capital of Italy is Rome. <JOIN-1>The Tiber flows "
        "through Rome.</JOIN-1> <ANSWER>Rome, on the Tiber</ANSWER>",
    ),
)

_WITH_TWO: tuple[Example, ...] = (
    (
        _PRODUCTS,
        "<FORK-1>What is 17 * 23?</FORK-1> <FORK-2>What is 31 * 29?</FORK-2> I expect about 400 + 900 = 1300. "
        "<JOIN-1>17 * 23 = 391</JOIN-1> <JOIN-2>31 * 29 = 899</JOIN-2> The sum is 391 + 899 = 1290. "
        "<ANSWER>1290</ANSWER>",
    ),
    (
        _ITALY,
        "<FORK-1>What is the capital of Italy?</FORK-1> <FORK-2>Which river flows through Rome?</FORK-2> "
        "<JOIN-1>The capital of Italy is Rome.</JOIN-1> <JOIN-2>The Tiber flows through Rome.</JOIN-2> "
        "<ANSWER>Rome, on the Tiber</ANSWER>",
    ),
)

_WITH_ANY: Example = (
    "Who wrote Hamlet?",
    "<FORK-1>Who wrote the play Hamlet?</FORK-1> I think of an English poet. <JOIN-1>William Shakespeare wrote Hamlet."
    "</JOIN-1> <ANSWER>William Shakespeare</ANSWER>",
)

_WORKER = """\
You are a worker: you are given one sub-query, a part of a larger question that you don't see. Think about it step by \
step in plain text, then end with <RETURN>takeaways</RETURN>. Only what stands between these two tags is read by the \
one who asked, so it must say all that you found, in few words. Write <RETURN> once, and no other tag."""

WORKER_EXAMPLES: tuple[Example, ...] = (
    ("What is 17 * 23?", "17 * 20 = 340 and 17 * 3 = 51, together 391. <RETURN>17 * 23 = 391</RETURN>"),
    ("Which river flows through Rome?", "Rome lies on the Tiber. <RETURN>The Tiber flows through Rome.</RETURN>"),
)

_SEQUENTIAL = """\
Think about the question step by step in plain text, then end with <ANSWER>answer</ANSWER>. Write no other tag."""

_ALONE: tuple[Example, ...] = (
    (_PRODUCTS, "17 * 23 = 391 and 31 * 29 = 899. The sum is 391 + 899 = 1290. <ANSWER>1290</ANSWER>"),
    (_ITALY, "The capital of Italy is Rome, and Rome lies on the Tiber. <ANSWER>Rome, on the Tiber</ANSWER>"),
)

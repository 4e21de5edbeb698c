"""What another model is asked in each of the two steps, from files that anybody can change.

A folder of prompts (`synthesis/prompts/` is the one that comes with the package) holds:

    fragments.md        instructions of step 1, in which independent fragments of the thinking are found
    traces.md           instructions of step 2, in which organizer and workers write along a given sequence of actions
    examples/<any>.txt  solved examples of both steps, in the order of their names; those that fit the pool are shown

In the instructions `{task}` stands for the task in words, `{organizer}` and `{worker}` for what a model that plays the
role is told (`protocol/prompts.py`), `{agents}` for the agents of the pool. Other braces are left alone. An example has
the sections [problem], [thinking], [fragments], [sequence], a [worker i] for each fork, and [organizer]; it is held to
the same rules as what the model will write.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from asyncthink_jax.config import ConfigError
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.prompts import organizer_instructions, worker_instructions
from asyncthink_jax.synthesis.plans import Plan, from_text, skeleton, skeleton_of, to_text
from asyncthink_jax.synthesis.reading import Dropped, read_fragments, read_traces, sections

PACKAGED = Path(__file__).parent / "prompts"
_ANY_POOL = Grammar(capacity=1000, max_forks=1000)

Messages = list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Example:
    """A problem with the right answers to both questions.

    Attributes:
      problem: its text, with how it is to be answered.
      found: the answer to the first question. fragments: those in it.
      plan: the sequence that is asked for in the second.
      written: the answer to that.
    """

    problem: str
    found: str
    fragments: tuple[str, ...]
    plan: Plan
    written: str

    def fits(self, grammar: Grammar) -> bool:
        """Whether the traces are well-formed in a pool."""
        try:
            read_traces(self.written, grammar)
        except Dropped:
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of both steps for one task and one pool, as messages of a chat."""

    fragments: str
    traces: str
    examples: tuple[Example, ...]

    def ask_fragments(self, query: str) -> Messages:
        """The first question about a problem."""
        turns = [(_problem(example.problem), example.found) for example in self.examples]
        return _chat(self.fragments, turns, _problem(query))

    def ask_traces(self, query: str, fragments: list[str], plan: Plan) -> Messages:
        """The second question about a problem: its fragments, and the actions in their order."""
        turns = [
            (_second(example.problem, example.fragments, example.plan), example.written) for example in self.examples
        ]
        return _chat(self.traces, turns, _second(query, fragments, plan))


def load(folder: Path, task: str, grammar: Grammar) -> Questions:
    """The questions out of a folder of prompts, for a task (in words, `tasks/task.py:Task.instructions`) and a pool.

    Raises ConfigError, in one line that names the file, for what is missing or wrong in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"--prompts {folder} is no folder")
    examples = [_example(path) for path in sorted(folder.glob("examples/*.txt"))]
    names = {
        "{task}": task.strip(),
        "{organizer}": organizer_instructions(grammar, task),
        "{worker}": worker_instructions(),
        "{agents}": str(grammar.capacity),
    }
    return Questions(
        _filled(folder / "fragments.md", names),
        _filled(folder / "traces.md", names),
        tuple(example for example in examples if example.fits(grammar)),
    )


def _filled(path: Path, names: dict[str, str]) -> str:
    text = _read(path).strip()
    if not text:
        raise ConfigError(f"{path} is empty; it holds the instructions of a step")
    return re.sub("|".join(map(re.escape, names)), lambda match: names[match[0]], text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path} can't be read: {reason}") from error


def _example(path: Path) -> Example:
    text = _read(path)
    try:
        found = sections(text)
        missing = {"problem", "thinking", "fragments", "sequence", "organizer"} - found.keys()
        if missing:
            raise ValueError(f"no section [{min(missing)}]")
        plan = from_text(found["sequence"])
        first = "\n\n".join(f"[{name}]\n{found[name]}" for name in ("thinking", "fragments"))
        second = "\n\n".join(
            f"[{name}]\n{body}" for name, body in found.items() if name == "organizer" or name.startswith("worker ")
        )
        fragments = read_fragments(first)
        traces = read_traces(second, _ANY_POOL)
        if skeleton_of(traces.actions) != skeleton(plan):
            raise ValueError("the organizer's forks and joins are not those of [sequence]")
        if any(action.fragment > len(fragments) for action in plan):
            raise ValueError(f"[sequence] names a fragment that is not there ([fragments] has {len(fragments)})")
    except (ValueError, Dropped) as error:
        raise ConfigError(f"{path}: {error}") from error
    return Example(found["problem"], first, tuple(fragments), plan, second)


def _problem(query: str) -> str:
    return f"[problem]\n{query}"


def _second(query: str, fragments: list[str] | tuple[str, ...], plan: Plan) -> str:
    numbered = "\n".join(f"{number}. {fragment}" for number, fragment in enumerate(fragments, start=1))
    return f"{_problem(query)}\n\n[fragments]\n{numbered}\n\n[sequence]\n{to_text(plan)}"


def _chat(instructions: str, turns: list[tuple[str, str]], question: str) -> Messages:
    messages = [{"role": "system", "content": instructions}]
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": question}]

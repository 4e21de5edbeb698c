"""Writes a demonstration piece by piece, for a program that decides what its organizer does."""

from typing import Generic

from asyncthink_jax.tasks.task import P, Script


class ScriptWriter(Generic[P]):
    """An organizer's script as far as it is written, with what its workers write."""

    def __init__(self, problem: P):
        self.problem = problem
        self._pieces: list[str] = []
        self._work: list[int] = []  # places of the pieces that don't organize
        self._workers: dict[int, str] = {}
        self._returns: dict[int, str] = {}

    @property
    def forks(self) -> int:
        """How many sub-queries have been handed out."""
        return len(self._workers)

    def say(self, *pieces: str) -> None:
        """Words that organize: a header, say."""
        self._pieces += pieces

    def do(self, text: str) -> None:
        """Own work, or a tally."""
        self._work.append(len(self._pieces))
        self._pieces.append(text)

    def write_fork(self, fork_id: int, sub_query: str, thoughts: str, takeaways: str) -> None:
        """A Fork, and the whole trace of the worker that it starts."""
        self.say(f"<FORK-{fork_id}>", sub_query, f"</FORK-{fork_id}>")
        self._workers[fork_id] = f"{thoughts}<RETURN>{takeaways}</RETURN>"
        self._returns[fork_id] = takeaways

    def write_join(self, fork_id: int) -> None:
        """A Join; the takeaways are not written, since a Join inserts them."""
        self.say(f"<JOIN-{fork_id}>")

    def answered(self, text: str) -> Script:
        """The whole script, with this answer."""
        self.say("<ANSWER>")
        self.do(text)
        self.say("</ANSWER>")
        return Script(self.problem, tuple(self._pieces), frozenset(self._work), self._workers, self._returns)

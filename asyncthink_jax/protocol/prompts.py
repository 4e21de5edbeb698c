"""The text around a query and around a sub-query: all that tells one model which of its two roles it plays."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompt texts; none of them is parsed for tags, so they may explain the protocol with examples.

    Attributes:
      organizer: a template in which `{query}` stands once (other braces are left alone).
      worker_prefix, worker_suffix: what a worker reads before and after its sub-query. They are apart because the
        engine feeds the sub-query's own tokens between them, without a round trip through text.
    """

    organizer: str
    worker_prefix: str
    worker_suffix: str

    def __post_init__(self) -> None:
        if self.organizer.count("{query}") != 1:
            raise ValueError("the organizer's prompt must contain {query} exactly once")

    def for_organizer(self, query: str) -> str:
        """The organizer's prompt for a query."""
        before, after = self.organizer.split("{query}")
        return before + query + after

    def for_worker(self, sub_query: str) -> str:
        """A worker's prompt as text: what the engine's tokens spell."""
        return self.worker_prefix + sub_query + self.worker_suffix


TINY = Prompts(organizer="solve {query} :", worker_prefix="work", worker_suffix=" :")

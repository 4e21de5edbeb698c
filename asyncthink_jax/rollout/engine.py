"""The engine: fork-join episodes, decoded side by side. `open` a session for what comes by and by, or `run` a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Key

from asyncthink_jax.rollout.loop import Loop
from asyncthink_jax.rollout.record import Rollout
from asyncthink_jax.rollout.session import FOREVER, Session

# Steps after which the loop returns to the host where somebody polls. Returning costs about a millisecond, a step on a
# TPU ten of them.
POLL_EVERY = 64


class Engine(Loop):
    """The programs of `Loop`, and the host's two ways to run them."""

    def open(
        self,
        params: Any,
        key: Key[Array, ""],
        temperature: float,
        room: int | None = None,
        longest_prompt: int | None = None,
    ) -> Session:
        """A session in which episodes can be submitted at any time.

        Args:
            params: the model's parameters, in the rollout layout.
            key: seed of all random numbers of the session.
            temperature: of the sampling; 0 is greedy.
            room: episodes that are held at once, those that wait for a slot and those that nobody has taken yet
                included; rounded up to a multiple of the slots. Default twice the slots. Sessions of equal room share
                their compilation.
            longest_prompt: tokens; what is kept of prompts that are read at once has this length. Default the context.
        """
        room = 2 * self.limits.slots if room is None else max(1, room)
        longest = self.limits.context if longest_prompt is None else longest_prompt
        return Session(self, params, key, temperature, room, longest)

    def run(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        key: Key[Array, ""],
        temperature: float,
        episode_ids: Sequence[int] | None = None,
        rounds: int = 1,
        watch: Callable[[Rollout], None] | None = None,
        every: int = 8,
        poll: Callable[[], None] | None = None,
    ) -> Rollout:
        """Decodes one episode for each prompt.

        Args:
            params, key, temperature: as of `open`.
            prompts: token ids; episode n is the n-th of them.
            episode_ids: what the random numbers of each episode are keyed by; default 0, 1, 2, ..
            rounds: room for prompts, in multiples of the slots, if they need no more.
            watch: called every `every` engine steps with all episodes as far as they have come. It changes nothing in
                them.
            every: at least 1; another number needs no compilation.
            poll: called now and then while episodes go on, by all processes alike. What it raises gives the rollout up.

        Raises:
            ValueError: a prompt is empty or longer than a row, or the rollout can't be watched so.
        """
        if every < 1:
            raise ValueError(f"every is {every}, but it must be at least one step")
        if watch and jax.process_count() > 1:
            raise ValueError("a rollout can be watched by a single process only")
        room = max(rounds * self.limits.slots, len(prompts))
        session = self.open(params, key, temperature, room, longest_prompt=max(map(len, prompts), default=0))
        tickets = [
            session.submit(prompt, None if episode_ids is None else episode_ids[n]) for n, prompt in enumerate(prompts)
        ]
        steps = every if watch else POLL_EVERY if poll else FOREVER
        while session.pending:
            session.advance(steps)
            if watch:
                watch(session.view(tickets))
            if poll and session.pending:
                poll()
        return session.rollout()

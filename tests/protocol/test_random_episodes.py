"""Random episodes: the interpreter against one that runs all agents at once, and against the clock's recurrence."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import BYTES, CLOSE_JOIN, EOS, WORDS, decode, encode, organizer_scripts, wire_of, worker_scripts

from asyncthink_jax.protocol.episode import clock, concurrency_ratio, critical_path
from asyncthink_jax.protocol.grammar import Grammar, Tag
from asyncthink_jax.protocol.interpreter import run
from asyncthink_jax.protocol.parser import Parser

plenty = st.just(200)


@st.composite
def scenarios(draw):
    """Scripts and limits: room for all most of the time, else any limit may be met anywhere."""
    capacity = draw(st.sampled_from([3, 4, 2, 1]))
    roomy = draw(st.booleans())
    return {
        "capacity": capacity,
        "scripts": [draw(organizer_scripts(capacity)), *(draw(worker_scripts()) for _ in range(3))],
        "prefix": draw(st.integers(0, 3)),
        "organizer_budget": draw(plenty if roomy else plenty | st.integers(0, 30)),
        "worker_budget": draw(plenty if roomy else plenty | st.integers(0, 8)),
        "context": draw(plenty if roomy else plenty | st.integers(1, 40)),
        "stop_ids": draw(st.sampled_from([(EOS,), (), (EOS, WORDS.index(b" c"))])),
    }


def interpret(case):
    """A scenario's scripts, each repeated for ever, through the interpreter."""
    written = {i: itertools.cycle(script) for i, script in enumerate(case["scripts"])}
    return run(
        wire_of(Grammar(case["capacity"], 3), prefix=" a" * case["prefix"], stop_ids=case["stop_ids"]),
        encode("solve"),
        lambda trace_id, known: next(written[trace_id]),
        case["organizer_budget"],
        case["worker_budget"],
        case["context"],
    )


@dataclasses.dataclass
class Agent:
    """A row of the side-by-side run."""

    id: int
    prompt: list
    script: Iterator
    budget: int
    parser: Parser
    known: list = dataclasses.field(default_factory=list)  # (token, sampled, step)
    since_fork: list = dataclasses.field(default_factory=list)
    returned: list | None = None  # None before <RETURN>
    waits_for: int | None = None
    end: str | None = None
    failed_at: int | None = None


def side_by_side(case):
    """The same episode in an engine's way: all agents at once, one token a step; every tag is one token here.

    Returns each trace's (prompt, known tokens, end), the steps taken, and the error's name.
    """
    grammar, room = Grammar(case["capacity"], 3), case["context"]
    agents = {}

    def start(i, prompt):
        parser = Parser("worker" if i else "organizer", grammar)
        budget = case["worker_budget" if i else "organizer_budget"]
        agents[i] = Agent(i, prompt[:room], itertools.cycle(case["scripts"][i]), budget, parser)

    def end_if_used_up(agent):
        decoded = sum(sampled for _, sampled, _ in agent.known)
        if decoded >= agent.budget or len(agent.prompt) + len(agent.known) >= room:
            agent.end = agent.end or "budget"

    def decode_one(agent):
        token = next(agent.script)
        agent.known.append((token, True, step))
        if token in case["stop_ids"]:
            agent.end = "budget"
            return
        actions = agent.parser.feed(WORDS[token].decode())
        if not actions:
            agent.since_fork.append(token)
            agent.returned = agent.returned if agent.returned is None else [*agent.returned, token]
        elif agent.parser.error:
            agent.end, agent.failed_at = "format_error", step
        elif agent.parser.done:
            agent.end = "return" if agent.id else "answer"
        elif actions[0].tag == Tag.FORK:
            agent.since_fork = []
        elif actions[0].tag == Tag.RETURN:
            agent.returned = []
        elif actions[0].tag == Tag.JOIN:
            agent.waits_for = actions[0].id
        elif actions[0].tag == Tag.END_FORK:
            start(actions[0].id, [*encode(" a" * case["prefix"]), *agent.since_fork, *encode(":")])

    start(0, encode("solve"))
    organizer, step = agents[0], 0
    while True:
        for agent in agents.values():
            if agent is not organizer:
                end_if_used_up(agent)
        if organizer.waits_for and agents[organizer.waits_for].end:
            text = [*(agents[organizer.waits_for].returned or []), *CLOSE_JOIN[organizer.waits_for]]
            organizer.known += [(t, False, step) for t in text[: room - len(organizer.prompt) - len(organizer.known)]]
            organizer.parser.interrupt()
            organizer.waits_for = None
        if not organizer.waits_for:
            end_if_used_up(organizer)
        if organizer.end:
            break
        step += 1
        for agent in list(agents.values()):
            if not agent.end and not agent.waits_for:
                decode_one(agent)

    failed = [(agent.failed_at, i, agent.parser.error) for i, agent in agents.items() if i and agent.failed_at]
    error = organizer.parser.finish() or (min(failed)[2] if failed else None)
    traces = [(agents[i].prompt, agents[i].known, agents[i].end or "stopped") for i in sorted(agents)]
    return traces, step, error.name.lower() if error else None


@settings(deadline=None, max_examples=500)
@given(scenarios())
def test_agents_side_by_side_make_the_same_episode(case):
    episode = interpret(case)
    got = [
        (t.prompt.tolist(), list(zip(t.tokens.tolist(), t.sampled.tolist(), t.steps.tolist(), strict=True)), t.end)
        for t in episode.traces
    ]
    assert (got, episode.critical_path, episode.format_error) == side_by_side(case)


@settings(deadline=None, max_examples=300)
@given(scenarios())
def test_the_recurrence_gives_the_clock_of_any_episode(case):
    episode = interpret(case)
    assert critical_path(episode.traces) == episode.critical_path
    assert 0 <= episode.concurrency <= 1
    assert episode.concurrency == concurrency_ratio(episode.traces) / case["capacity"]
    for trace, life in zip(episode.traces, clock(episode.traces), strict=True):
        own = trace.steps[trace.sampled]
        assert np.all(np.diff(own) >= 1) and np.all(np.diff(trace.steps) >= 0)
        assert own.size == 0 or (life.start < own[0] and own[-1] <= life.end)
        if trace.role == "worker":
            assert own.tolist() == list(range(life.start + 1, life.end + 1))
        assert trace.tokens.dtype == trace.prompt.dtype == trace.steps.dtype == np.int32
        assert trace.logprobs.dtype == np.float32 and trace.sampled.dtype == np.bool_


@settings(deadline=None)
@given(scenarios())
def test_how_a_text_is_tokenized_does_not_change_what_it_does(case):
    texts = [decode(t for t in script if t != EOS) for script in case["scripts"]]

    def outcome(vocabulary, end):
        written = {i: iter(encode(text, vocabulary)) for i, text in enumerate(texts)}
        episode = run(
            wire_of(Grammar(case["capacity"], 3), vocabulary, stop_ids=[end]),
            encode("solve", vocabulary),
            lambda trace_id, known: next(written[trace_id], end),
            organizer_budget=10_000,
            worker_budget=10_000,
            context=20_000,
        )
        organizer = episode.traces[0]
        return {
            "prompts": [(t.fork_id, decode(t.prompt, vocabulary)) for t in episode.traces],
            "organizer": decode((t for t in organizer.tokens if t != end), vocabulary),
            "events": [(event.action, event.id) for event in organizer.events],
            "end": organizer.end,
            "answer": episode.answer,
            # Which worker comes to its error first, or at all before the Answer, does depend on lengths.
            "error": episode.format_error if organizer.end != "answer" else None,
        }

    assert outcome(WORDS, EOS) == outcome(BYTES, 255)  # byte 255 is never part of the texts

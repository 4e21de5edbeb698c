"""The interpreter, the engine's reference: joins, clocks, budgets, rows that fill up, and errors."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncthink_jax.protocol.episode import clock, concurrency_ratio, critical_path
from asyncthink_jax.protocol.grammar import Grammar, Parser, Tag, tag_literals
from asyncthink_jax.protocol.interpreter import demonstration, run

WORDS = [
    s.encode() for s in [*tag_literals(3), "<FORK-9>", "<JOIN-0>", " a", " b", " c", "<ANS", "<", ":", "work", "solve"]
]
WORDS.append(b"")  # end-of-text
EOS = len(WORDS) - 1
BYTES = [bytes([b]) for b in range(256)]
GRAMMAR = Grammar(capacity=3, max_forks=3)


def encode(text, vocabulary=WORDS):
    """Longest match first."""
    data, tokens = text.encode(), []
    while data:
        token = max(
            (t for t in range(len(vocabulary)) if vocabulary[t] and data.startswith(vocabulary[t])),
            key=lambda t: len(vocabulary[t]),
        )
        tokens.append(token)
        data = data[len(vocabulary[token]) :]
    return tokens


def decode(tokens, vocabulary=WORDS):
    return b"".join(vocabulary[t] for t in tokens).decode()


def play(organizer, workers=None, *, vocabulary=WORDS, grammar=GRAMMAR, endings=(), **limits):
    """Scripted texts through the protocol; a trace in `endings` samples end-of-text after its script."""
    scripts = {
        i: encode(text, vocabulary) + [EOS] * (i in endings) for i, text in {0: organizer, **(workers or {})}.items()
    }
    close_join = {i: encode(f"</JOIN-{i}>", vocabulary) for i in range(1, grammar.max_forks + 1)}
    return demonstration(
        grammar,
        encode("solve:", vocabulary),
        encode("work", vocabulary),
        encode(":", vocabulary),
        scripts.pop(0),
        scripts,
        vocabulary,
        close_join,
        eos_id=EOS if vocabulary is WORDS else None,
        **limits,
    )


def text_of(trace, vocabulary=WORDS):
    return decode(trace.tokens, vocabulary)


def test_a_worker_reads_its_sub_query_and_the_organizer_its_return():
    episode = play(
        " a<FORK-1> b c</FORK-1> a<JOIN-1> c<ANSWER> b</ANSWER>",
        {1: " a a<RETURN> b b</RETURN>"},
    )
    organizer, worker = episode.traces
    assert decode(worker.prompt) == "work b c:"
    assert text_of(organizer) == " a<FORK-1> b c</FORK-1> a<JOIN-1> b b</JOIN-1> c<ANSWER> b</ANSWER>"
    assert [decode(organizer.tokens[~organizer.sampled])] == [" b b</JOIN-1>"]
    assert (episode.answer, episode.format_error) == (" b", None)
    assert (organizer.end, worker.end) == ("answer", "return")
    assert [(e.action, e.id, e.at) for e in organizer.events] == [("fork", 1, 5), ("join", 1, 7)]
    assert (worker.fork_id, organizer.fork_id, worker.role, organizer.role) == (1, None, "worker", "organizer")


def test_join_waits_for_a_running_worker():
    # The fork closes at step 2, the worker's six tokens take steps 3 to 8, the organizer has joined at step 3.
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: " a a a<RETURN> b</RETURN>"})
    organizer, worker = episode.traces
    assert worker.steps.tolist() == [3, 4, 5, 6, 7, 8]
    assert organizer.steps.tolist() == [1, 2, 3, 8, 8, 9, 10]
    assert organizer.sampled.tolist() == [True, True, True, False, False, True, True]
    assert episode.critical_path == 10
    assert episode.concurrency == pytest.approx((5 + 6) / 10 / 3)


def test_join_of_a_worker_that_has_ended_does_not_wait():
    episode = play("<FORK-1></FORK-1> a a a a<JOIN-1><ANSWER></ANSWER>", {1: "<RETURN> b</RETURN>"})
    assert episode.traces[0].steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9]


def test_workers_stand_by_fork_id_whatever_the_order_of_forks_and_joins():
    r = "<RETURN></RETURN>"
    episode = play("<FORK-3></FORK-3><FORK-1></FORK-1><JOIN-1><FORK-2></FORK-2><ANSWER></ANSWER>", {1: r, 2: r, 3: r})
    assert [t.fork_id for t in episode.traces] == [None, 1, 2, 3]


def test_joined_text_is_not_read_for_tags():
    # Worker 1 returns "<ANS": with the organizer's text before and after it, no tag may come of it.
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER> a</ANSWER>", {1: "<RETURN><ANS</RETURN>"})
    assert (episode.answer, episode.format_error) == (" a", None)


def test_a_tag_does_not_continue_across_joined_text():
    # Here one token closes the Join and begins what looks like an Answer, cut in two by the joined text.
    vocabulary = [*WORDS, b"<JOIN-1><", b"ANSWER>"]
    organizer = "<FORK-1></FORK-1><JOIN-1><ANSWER> a<ANSWER> b</ANSWER>"
    episode = play(organizer, {1: "<RETURN></RETURN>"}, vocabulary=vocabulary)
    assert text_of(episode.traces[0], vocabulary).startswith("<FORK-1></FORK-1><JOIN-1><</JOIN-1>ANSWER> a")
    assert (episode.answer, episode.format_error) == (" b", None)


def test_the_protocol_allows_empty_texts():
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: "<RETURN></RETURN>"})
    assert (episode.answer, episode.format_error) == ("", None)
    assert text_of(episode.traces[0]) == "<FORK-1></FORK-1><JOIN-1></JOIN-1><ANSWER></ANSWER>"


# --- An organizer's error ends the episode there.


@pytest.mark.parametrize(
    ("organizer", "error"),
    [
        ("<FORK-1></FORK-1><FORK-1>", "fork_twice"),
        ("<FORK-1></FORK-1><FORK-2></FORK-2><FORK-3>", "pool_full"),
        ("<FORK-1></FORK-1><JOIN-2>", "join_unknown"),
        ("<FORK-1></FORK-1><JOIN-1><JOIN-1>", "join_twice"),
        ("<FORK-1></FORK-1><FORK-2><JOIN-1>", "nested_tag"),
        ("<FORK-1></FORK-1></JOIN-1>", "stray_tag"),
        ("<FORK-1></FORK-1><RETURN>", "wrong_role"),
        ("<FORK-1></FORK-1><FORK-9>", "id_out_of_range"),
        ("<FORK-1></FORK-1><JOIN-0>", "id_out_of_range"),
    ],
)
def test_an_organizers_error_ends_the_episode_there(organizer, error):
    workers = {1: "<RETURN></RETURN>"} | ({2: "<RETURN></RETURN>"} if "</FORK-2>" in organizer else {})
    episode = play(organizer + "<ANSWER> a</ANSWER>", workers)
    assert (episode.format_error, episode.traces[0].end, episode.answer) == (error, "format_error", None)
    assert decode(episode.traces[0].tokens[episode.traces[0].sampled]) == organizer


def test_a_fork_that_was_never_closed_makes_no_worker():
    episode = play("<FORK-1> a", endings=[0])
    assert len(episode.traces) == 1 and episode.format_error == "no_answer"


# --- A worker's error makes the episode malformed, but the organizer goes on.


@pytest.mark.parametrize(
    ("worker", "error", "joined"),
    [
        (" a<RETURN> b c<FORK-1> a", "nested_tag", " b c"),
        (" a<RETURN> b<RETURN> c</RETURN>", "nested_tag", " b"),
        (" a</RETURN> a", "stray_tag", ""),
        (" a<ANSWER> a", "wrong_role", ""),
        (" a<FORK-9> a", "wrong_role", ""),
    ],
)
def test_a_join_reads_what_a_worker_returned_before_its_error(worker, error, joined):
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER> c</ANSWER>", {1: worker})
    assert (episode.format_error, episode.answer) == (error, " c")
    assert [t.end for t in episode.traces] == ["answer", "format_error"]
    assert text_of(episode.traces[0]) == f"<FORK-1></FORK-1><JOIN-1>{joined}</JOIN-1><ANSWER> c</ANSWER>"


def test_of_two_worker_errors_the_earlier_step_counts():
    forks = "<FORK-1></FORK-1><FORK-2></FORK-2><JOIN-2><JOIN-1><ANSWER></ANSWER>"
    assert play(forks, {1: " a a a a a</RETURN>", 2: " a<FORK-1>"}).format_error == "wrong_role"
    assert play(forks, {1: "</RETURN>", 2: " a a<FORK-1>"}).format_error == "stray_tag"


def test_of_two_worker_errors_at_one_step_the_lower_id_counts():
    forks = "<FORK-{0}></FORK-{0}><FORK-{1}></FORK-{1}><JOIN-2><JOIN-1><ANSWER></ANSWER>"
    assert play(forks.format(1, 2), {1: " a a</RETURN>", 2: "<FORK-1>"}).format_error == "stray_tag"
    assert play(forks.format(2, 1), {1: "</RETURN>", 2: " a a<FORK-1>"}).format_error == "stray_tag"


def test_the_organizers_error_counts_before_an_earlier_one_of_a_worker():
    organizer = "<FORK-1></FORK-1><JOIN-1> a"
    assert play(organizer + "<JOIN-1>", {1: "<FORK-1>"}).format_error == "join_twice"
    assert play(organizer, {1: "<FORK-1>"}, endings=[0]).format_error == "no_answer"


def test_an_error_after_the_answer_does_not_count():
    # The worker's third token comes at step 5, the answer ends at step 4.
    organizer = "<FORK-1></FORK-1><ANSWER></ANSWER>"
    late, on_time = play(organizer, {1: " a a<FORK-1>"}), play(organizer, {1: " a<FORK-1>"})
    assert (late.format_error, late.traces[1].end, late.traces[1].steps.tolist()) == (None, "stopped", [3, 4])
    assert (on_time.format_error, on_time.traces[1].end) == ("wrong_role", "format_error")


def test_a_worker_without_a_token_yet_is_a_stopped_trace():
    # FORK-2's closer is followed at once by the organizer's error, one step later, and FORK-3's is the last token.
    episode = play("<FORK-3></FORK-3>", {3: "<RETURN></RETURN>"}, organizer_budget=2)
    assert [(t.end, len(t.tokens)) for t in episode.traces] == [("budget", 2), ("stopped", 0)]


# --- Budgets that run out in each place.


@pytest.mark.parametrize(
    "written",
    [
        "",
        " a",
        "<ANS",
        "<FORK-1>",
        "<FORK-1> a",
        "<ANSWER>",
        "<ANSWER> a",
        "<FORK-1></FORK-1>",
        "<FORK-1></FORK-1><JOIN-1>",
    ],
)
def test_an_organizer_out_of_budget_has_no_answer(written):
    workers = {1: "<RETURN> b</RETURN>"} if "</FORK-1>" in written else {}
    for limit in ({"organizer_budget": len(encode(written))}, {"endings": [0]}):
        episode = play(written, workers, **limit)
        assert (episode.format_error, episode.answer, episode.traces[0].end) == ("no_answer", None, "budget")
        assert episode.traces[0].decoded_tokens == len(encode(written)) + ("endings" in limit)
        assert episode.critical_path == clock(episode.traces)[0].end


def test_an_answer_on_the_last_token_of_the_budget_counts():
    assert play(" a<ANSWER></ANSWER>", organizer_budget=3).format_error is None
    assert play(" a<ANSWER></ANSWER>", organizer_budget=2).format_error == "no_answer"


def test_a_join_on_the_organizers_last_token_waits_and_inserts():
    episode = play("<FORK-1></FORK-1><JOIN-1>", {1: " a a<RETURN> b</RETURN>"}, organizer_budget=3)
    organizer = episode.traces[0]
    assert text_of(organizer) == "<FORK-1></FORK-1><JOIN-1> b</JOIN-1>"
    assert [e.action for e in organizer.events] == ["fork", "join"]
    assert (episode.critical_path, organizer.end, episode.traces[1].end) == (7, "budget", "return")


@pytest.mark.parametrize(
    ("worker", "joined"),
    [
        ("", ""),
        (" a", ""),
        (" a<RETURN>", ""),
        (" a<RETURN> b c", " b c"),
        (" a<RETURN> b<", " b<"),
        (" a<RETURN> b<ANS", " b<ANS"),
    ],
)
def test_a_worker_out_of_budget_returns_what_it_had(worker, joined):
    for limit in ({"worker_budget": len(encode(worker))}, {"endings": [1]}):
        episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: worker}, **limit)
        assert (episode.format_error, episode.traces[1].end) == (None, "budget")
        assert text_of(episode.traces[0]) == f"<FORK-1></FORK-1><JOIN-1>{joined}</JOIN-1><ANSWER></ANSWER>"
        assert EOS not in episode.traces[0].tokens


def test_an_end_of_text_token_is_a_decoded_token_of_its_trace():
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: "<RETURN> b"}, endings=[1])
    assert episode.traces[1].tokens[-1] == EOS and episode.traces[1].decoded_tokens == 3
    assert episode.critical_path == 2 + 3 + 2


def test_a_return_on_the_last_token_of_the_budget_counts():
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: "<RETURN></RETURN>"}, worker_budget=2)
    assert episode.traces[1].end == "return"


# --- Rows that fill up. The organizer's prompt "solve:" has 2 tokens.


def test_a_full_row_keeps_the_last_token_that_fits():
    episode = play(" a b c", context=4)
    assert text_of(episode.traces[0]) == " a b"
    assert (episode.traces[0].end, episode.format_error) == ("budget", "no_answer")
    assert play(" a<ANSWER></ANSWER>", context=5).format_error is None


@pytest.mark.parametrize(("context", "inserted"), [(5, ""), (6, " b"), (7, " b c"), (8, " b c</JOIN-1>")])
def test_insertion_stops_where_the_row_is_full(context, inserted):
    episode = play("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: "<RETURN> b c"}, context=context, worker_budget=3)
    assert text_of(episode.traces[0]) == "<FORK-1></FORK-1><JOIN-1>" + inserted
    assert (episode.traces[0].end, episode.format_error, episode.critical_path) == ("budget", "no_answer", 5)


def test_a_workers_prompt_that_fills_its_row_leaves_it_nothing_to_decode():
    # The organizer's own row is as long, so only prefix and suffix can make a worker's prompt too long.
    long_prefix = encode(" a" * 9)
    episode = run(
        GRAMMAR,
        [],
        long_prefix,
        encode(":"),
        scripted("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>"),
        WORDS,
        CLOSE_JOIN,
        99,
        99,
        9,
    )
    worker = episode.traces[1]
    assert (worker.prompt.tolist(), worker.tokens.size, worker.end) == (long_prefix, 0, "budget")
    assert text_of(episode.traces[0]) == "<FORK-1></FORK-1><JOIN-1></JOIN-1><ANSWER></ANSWER>"
    assert (episode.format_error, episode.critical_path, clock(episode.traces)[1]) == (None, 5, (2, 2))


CLOSE_JOIN = {i: encode(f"</JOIN-{i}>") for i in (1, 2, 3)}


def scripted(organizer):
    tokens = iter(encode(organizer))
    return lambda trace_id, known: next(tokens)


def test_an_organizers_prompt_that_fills_its_row_ends_the_episode_at_once():
    episode = play(" a", context=2)
    assert (episode.traces[0].tokens.size, episode.critical_path, episode.concurrency) == (0, 0, 0.0)
    assert episode.format_error == "no_answer"
    with pytest.raises(ValueError, match="context"):
        play(" a", context=1)


def test_the_model_is_given_what_the_trace_knows():
    seen = []
    tokens = {0: iter(encode("<FORK-1> b</FORK-1><JOIN-1><ANSWER></ANSWER>")), 1: iter(encode("<RETURN> c</RETURN>"))}

    def model(trace_id, known):
        seen.append((trace_id, decode(known)))
        return next(tokens[trace_id])

    run(GRAMMAR, encode("solve"), encode("work"), encode(":"), model, WORDS, CLOSE_JOIN, 99, 99, 99)
    assert seen[3:8] == [
        (0, "solve<FORK-1> b</FORK-1>"),
        (1, "work b:"),
        (1, "work b:<RETURN>"),
        (1, "work b:<RETURN> c"),
        (0, "solve<FORK-1> b</FORK-1><JOIN-1> c</JOIN-1>"),
    ]


# --- Demonstrations.


@pytest.mark.parametrize(
    ("organizer", "workers", "message"),
    [
        ("<FORK-1></FORK-1><JOIN-1>", {1: "<RETURN></RETURN>"}, "organizer"),
        ("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {}, "worker 1"),
        ("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>", {1: "<RETURN>"}, "worker 1"),
        ("<ANSWER></ANSWER>", {2: ""}, r"never forked: \[2\]"),
    ],
)
def test_a_demonstration_whose_scripts_do_not_fit_is_refused(organizer, workers, message):
    with pytest.raises(ValueError, match=message):
        play(organizer, workers)


# --- Random episodes.

texts = st.sampled_from(["", " a", " b c", " a a a", "<ANS", " a<"])
mostly = st.sampled_from([True] * 15 + [False])
any_tokens = st.lists(st.integers(0, EOS), max_size=3)
plenty = st.just(200)


@st.composite
def organizer_scripts(draw, capacity):
    """Thinks, forks and joins mostly where that is legal, with random tokens thrown in now and then."""
    script, unused, active = [], [1, 2, 3], []
    for _ in range(draw(st.integers(0, 8))):
        script += encode(draw(texts)) if draw(mostly) else draw(any_tokens)
        if active and (len(active) >= capacity - 1 or not unused or draw(st.booleans())):
            script += encode(f"<JOIN-{active.pop(draw(st.integers(0, len(active) - 1)))}>")
        elif unused and len(active) < capacity - 1:
            active.append(unused.pop(draw(st.integers(0, len(unused) - 1))))
            script += encode(f"<FORK-{active[-1]}>{draw(texts)}</FORK-{active[-1]}>")
    return [*script, *encode(f"<ANSWER>{draw(texts)}</ANSWER>")]


@st.composite
def worker_scripts(draw):
    thoughts = encode(draw(texts) * draw(st.integers(0, 4))) if draw(mostly) else draw(any_tokens)
    takeaways = encode(draw(texts)) if draw(mostly) else draw(any_tokens)
    return [*thoughts, *encode("<RETURN>"), *takeaways, *(encode("</RETURN>") if draw(mostly) else [EOS])]


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
        "eos_id": draw(st.sampled_from([EOS, None])),
    }


def interpret(case):
    """A scenario's scripts, each repeated for ever, through the interpreter."""
    written = {i: itertools.cycle(script) for i, script in enumerate(case["scripts"])}
    return run(
        Grammar(case["capacity"], 3),
        encode("solve"),
        encode(" a" * case["prefix"]),
        encode(":"),
        lambda trace_id, known: next(written[trace_id]),
        WORDS,
        CLOSE_JOIN,
        case["organizer_budget"],
        case["worker_budget"],
        case["context"],
        case["eos_id"],
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
        if token == case["eos_id"]:
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
            Grammar(case["capacity"], 3),
            encode("solve", vocabulary),
            encode("work", vocabulary),
            encode(":", vocabulary),
            lambda trace_id, known: next(written[trace_id], end),
            vocabulary,
            {i: encode(f"</JOIN-{i}>", vocabulary) for i in (1, 2, 3)},
            organizer_budget=10_000,
            worker_budget=10_000,
            context=20_000,
            eos_id=end,
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

"""What must hold of the engine, for pools of 1, 2, 4 and 8 agents and twelve ids:

    (a) it gives the episodes of the interpreter, with and without format errors
    (b) the trainer's forward pass gives the log-probabilities that were recorded
    (c) an episode alone takes as many steps as its critical path has tokens, plus those of its prompt
    (d) an episode is the same alone, in a full batch, and (test_independence.py) on one or eight devices

Numbered tags are of several tokens here, so budgets run out inside of them too.
"""

import functools
import random
import re

import pytest
from hypothesis import strategies as st
from scripted import Pool, Script, episode_of, examples, facts, interpret, on_engine
from scripts import decode

from asyncthink_jax.protocol.grammar import FormatError
from asyncthink_jax.protocol.parser import Parser

FORKS = 12
PIECES = ["<FORK-", "</FORK-", "<JOIN-", "</JOIN-", *"0123456789", ">", "<ANSWER>", "</ANSWER>", "<RETURN", "</RETURN>"]
VOCABULARY = tuple(piece.encode() for piece in [*PIECES, " a", " b", " c", "<ANS", "<", ":", "work", "solve", ""])
AGENTS = (1, 2, 4, 8)
each_pool = pytest.mark.parametrize("agents", AGENTS)

# Errors by what they need to stand behind: "" = plain text with FORK-12 forked and not joined.
ORGANIZER_ERRORS = {
    FormatError.FORK_TWICE: "<FORK-12>",
    FormatError.JOIN_UNKNOWN: "<JOIN-11>",
    FormatError.JOIN_TWICE: "<JOIN-12><JOIN-12>",
    FormatError.NESTED_TAG: "<ANSWER> b<JOIN-12>",
    FormatError.STRAY_TAG: "</FORK-12>",
    FormatError.WRONG_ROLE: "<RETURN>",
    FormatError.ID_OUT_OF_RANGE: "<JOIN-13>",
}
WORKER_ERRORS = ["<ANSWER>", "<FORK-1>", "</RETURN>", "<RETURN> b<RETURN>", "<RETURN> b<JOIN-10>", " a</FORK-12>"]

texts = st.sampled_from(["", " a", " b c", " a a<", " c<ANS b", " b b b b"])
rarely = st.integers(0, 9).map(lambda n: n == 0)


@st.composite
def organizers(draw, agents):
    """Forks and joins in any order, ids of one and two digits, slots used again, and now and then an error.

    Joins come late as well: of workers that ended long ago, in the order of the forks or against it.
    """
    text, unused, active = draw(texts), draw(st.permutations(range(1, FORKS + 1))), []
    for _ in range(draw(st.integers(0, 7))):
        if active and (len(active) == agents - 1 or draw(st.booleans())):
            text += f"<JOIN-{active.pop(draw(st.integers(0, len(active) - 1)))}>"
        elif len(active) < agents - 1:
            active.append(unused.pop())
            text += f"<FORK-{active[-1]}>{draw(texts)}</FORK-{active[-1]}>"
        text += draw(texts) * draw(st.integers(0, 2))
        if draw(rarely):
            return text + draw(st.sampled_from([*ORGANIZER_ERRORS.values(), f"<FORK-{unused[-1]}>"]))
    if draw(st.booleans()):  # else some are left running at the answer
        text += "".join(f"<JOIN-{i}>" for i in draw(st.permutations(active)))
    return text + f"<ANSWER>{draw(texts)}</ANSWER>"


@st.composite
def workers(draw):
    if draw(rarely):
        return draw(st.sampled_from(WORKER_ERRORS))
    return draw(texts) * draw(st.integers(0, 4)) + f"<RETURN>{draw(texts)}" + draw(st.sampled_from(["</RETURN>", ""]))


def pool_of(agents, **limits):
    # Room for most scripts, not for all.
    limits = {"context": 72, "worker_context": 40, "organizer_budget": 56, "worker_budget": 14, "slots": 8} | limits
    return Pool(agents=agents, forks=FORKS, feed_width=16, vocabulary=VOCABULARY, **limits)


def script_of(pool, organizer, worker_texts):
    encoded = [pool.encode(text) for text in (organizer, *worker_texts)]
    return Script(pool.encode("solve:"), [tokens or pool.encode(" a") for tokens in encoded])


@st.composite
def scripts(draw, pool):
    few = draw(st.lists(workers(), min_size=3, max_size=3))
    return script_of(pool, draw(organizers(pool.agents)), [few[i % 3] for i in range(FORKS)])


def edge_scripts(pool):
    """Each error; slots used again by every id; and a budget that runs out at every token of a fork, return and tag."""
    worker = " a<RETURN> b c</RETURN>"
    fork = "<FORK-12> b c</FORK-12>"
    of = lambda organizer, worker=worker: script_of(pool, organizer, [worker] * FORKS)  # noqa: E731
    found = [of(fork + error) for error in ORGANIZER_ERRORS.values()] + [of("<ANSWER> b"), of("")]
    found += [of("".join(f"<FORK-{i}></FORK-{i}>" for i in range(FORKS, FORKS - pool.agents, -1)))]  # one too many
    found += [of(fork + " a<JOIN-12><ANSWER></ANSWER>", error) for error in WORKER_ERRORS]
    found += [of("".join(f"<FORK-{i}></FORK-{i}><JOIN-{i}>" for i in (12, 1, 10)) + "<ANSWER> a</ANSWER>")]
    nested = "".join(f"<FORK-{i}> b</FORK-{i}>" for i in range(10, 9 + min(pool.agents, 5)))
    late = "".join(f"<JOIN-{i}>" for i in range(8 + min(pool.agents, 5), 9, -1))
    found += [of(nested + " a" * 12 + late + "<ANSWER> b</ANSWER>"), of(nested + "<ANSWER></ANSWER>", " a" * 20)]
    found += [of(" a" * (pool.organizer_budget - n) + "<ANSWER> c</ANSWER>") for n in range(4)]
    whole = fork + " a<JOIN-12><ANSWER> c</ANSWER>"
    for n in range(len(pool.encode(whole)) + 1):
        found += [of(" a" * (pool.organizer_budget - n) + whole)]
    for n in range(len(pool.encode(worker)) + 1):
        found += [of(fork + "<JOIN-12><ANSWER></ANSWER>", " a" * (pool.worker_budget - n) + worker)]
    return found


@functools.cache
def scenarios(agents, count=60):
    pool = pool_of(agents)
    chosen = edge_scripts(pool) + examples(scripts(pool), count)
    random.Random(0).shuffle(chosen)
    return pool, chosen, [interpret(pool, script) for script in chosen]


@functools.cache
def engine_of(agents, slots=8):
    return pool_of(agents, slots=slots).scripted_engine()


@each_pool
def test_a_and_d_in_a_batch_episodes_are_those_of_the_interpreter(agents):
    pool, chosen, interpreted = scenarios(agents)
    assert_same_episodes(engine_of(agents), pool, chosen, interpreted)


@each_pool
def test_c_and_d_alone_they_are_too_and_take_the_steps_of_their_critical_path(agents):
    pool, chosen, interpreted = scenarios(agents)
    engine = engine_of(agents, slots=1)
    for script, (episode, read) in list(zip(chosen, interpreted, strict=True))[:: 1 if agents == 4 else 3]:
        rollout = assert_same_episodes(engine, pool, [script], [(episode, read)])
        organizer = episode.traces[0]
        # Its budget ends with a Join or a Fork: what that puts into a prompt or a trace is put there in one more step.
        one_more = bool(organizer.events) and organizer.events[-1].at == organizer.decoded_tokens
        assert episode.critical_path <= rollout.engine_steps <= episode.critical_path + one_more


def assert_same_episodes(engine, pool, chosen, interpreted):
    expected, reads = zip(*interpreted, strict=True)
    rollout = on_engine(engine, pool, chosen, reads)
    for n, (script, episode) in enumerate(zip(chosen, expected, strict=True)):
        written = [decode(tokens, VOCABULARY) for tokens in script.tokens[:4]]
        assert facts(episode_of(rollout, n, VOCABULARY)) == facts(episode), written
    return rollout


@pytest.mark.slow
@each_pool
@pytest.mark.parametrize("limits", [{}, {"organizer_budget": 25, "worker_budget": 6}, {"context": 24}])
def test_a_for_new_scripts_each_time(agents, limits, sweep):
    pool = pool_of(agents, **limits)
    chosen = edge_scripts(pool) + examples(scripts(pool), 100 * sweep, derandomize=False)
    assert_same_episodes(pool.scripted_engine(), pool, chosen, [interpret(pool, script) for script in chosen])


# --- That the scripts have in them what they are here for.


@functools.cache
def happened(agents):
    """What befalls the episodes of a pool, in words."""
    found = set()
    for episode, _ in scenarios(agents)[2]:
        found.add(episode.format_error)
        organizer, *forked = episode.traces
        forks, joins = ([event for event in organizer.events if event.action == kind] for kind in ("fork", "join"))
        by_id = {trace.fork_id: trace for trace in forked}
        if any(fork.at > join.at for fork in forks for join in joins):
            found.add("a slot is used again")
        if any(
            len(by_id[join.id].tokens) + 5 < join.at - fork.at for join in joins for fork in forks if fork.id == join.id
        ):
            found.add("a join of a worker that ended long ago")
        if len(joins) > 1 and [join.id for join in joins] != [fork.id for fork in forks][: len(joins)]:
            found.add("joins in another order than forks")
        if any(i and i >= 10 for i in by_id):
            found.add("an id of two digits")
        if organizer.end == "answer" and any(trace.end == "stopped" for trace in forked):
            found.add("an answer while workers run")
        if any(len(trace.prompt) == 2 for trace in forked):
            found.add("an empty sub-query")
        for trace in episode.traces:
            if trace.end == "budget":
                text = decode(trace.tokens[trace.sampled], VOCABULARY)
                parser = Parser(trace.role, pool_of(agents).grammar)
                parser.feed(text)
                found |= {f"a budget that runs out in {parser.open[0].name.lower()}"} if parser.open else set()
                found |= {"a budget that runs out in a tag"} if re.search(r"</?(FORK|JOIN)-\d*$", text) else set()
    return found


@each_pool
def test_these_scripts_are_worth_playing(agents):
    alone = {None, "pool_full", "no_answer", "a budget that runs out in answer"}
    together = {
        "fork_twice",
        "join_unknown",
        "join_twice",
        "nested_tag",
        "stray_tag",
        "wrong_role",
        "id_out_of_range",
        "a slot is used again",
        "a join of a worker that ended long ago",
        "an id of two digits",
        "an answer while workers run",
        "an empty sub-query",
        "a budget that runs out in fork",
        "a budget that runs out in return",
        "a budget that runs out in a tag",
    }
    many = {"joins in another order than forks"}
    wanted = alone | (together if agents > 1 else set()) | (many if agents > 2 else set())
    assert wanted <= happened(agents), wanted - happened(agents)

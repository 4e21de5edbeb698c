"""A session: the four properties hold for episodes that are submitted late, and for cancelled neighbours."""

import itertools

import jax
import numpy as np
import pytest
from organizing import KEY, VOCABULARY, engine, episodes, organizing_params, prompts, run, settled
from scripted import Pool, Script, episode_of, examples, facts, interpret, on_engine, table_of
from test_engine import scripts_for

EPISODES = tuple(range(64))
POOL = Pool(agents=4, slots=4, feed_width=4)


@pytest.fixture(scope="module")
def scripted():
    """An engine of four slots, scripts of 40 episodes, the interpreter's episodes, and the model's parameters."""
    scripts = examples(scripts_for(POOL), 40)
    expected, reads = zip(*(interpret(POOL, script) for script in scripts), strict=True)
    return POOL.scripted_engine(), scripts, expected, table_of(POOL, scripts, reads)


def played(session, steps):
    """Advances a session to its end, and takes what finishes: ticket -> rollout of one."""
    found = {}
    while session.pending:
        for ticket in session.advance(steps):
            assert session.finished(ticket)
            found[ticket] = session.take(ticket)
    return found


@pytest.mark.parametrize("room", [4, 12])
def test_episodes_submitted_late_are_those_of_the_interpreter(scripted, room):
    own, scripts, expected, params = scripted
    session, found, waiting = own.open(params, KEY, 0.0, room), {}, list(scripts)
    while waiting or session.pending:
        for script in waiting[:3]:  # three more, whatever runs
            session.submit(script.prompt)
        waiting = waiting[3:]
        for ticket in session.advance(5):
            found[ticket] = session.take(ticket)
    assert sorted(found) == list(range(len(scripts)))
    for ticket, rollout in found.items():
        assert facts(episode_of(rollout, 0, POOL.vocabulary)) == facts(expected[ticket])


def test_neighbours_that_are_cancelled_change_nothing(scripted):
    own, scripts, expected, params = scripted
    session = own.open(params, KEY, 0.0, room=8)
    tickets = [session.submit(script.prompt) for script in scripts]
    found, cancelled, rng = {}, set(), np.random.default_rng(0)
    while session.pending:
        left = [ticket for ticket in tickets if ticket not in found and ticket not in cancelled]
        given_up = int(rng.choice(left))  # one that runs, one that waits for a slot, or one that waits for a place
        if len(cancelled) < 15:
            session.cancel(given_up)
            cancelled.add(given_up)
        for ticket in session.advance(3):
            found[ticket] = session.take(ticket)
    assert len(cancelled) == 15 and set(found) == set(tickets) - cancelled
    for ticket, rollout in found.items():
        assert facts(episode_of(rollout, 0, POOL.vocabulary)) == facts(expected[ticket])


def test_a_slot_whose_episode_is_cancelled_is_free_at_once(scripted):
    own, scripts, expected, params = scripted
    alone = own.open(params, KEY, 0.0, room=8)
    alone.submit(scripts[4].prompt, episode_id=4)
    played(alone, 100)
    session = own.open(params, KEY, 0.0, room=8)
    for script in scripts[:4]:
        session.submit(script.prompt)
    session.advance(1)
    for ticket in range(4):
        session.cancel(ticket)
    session.submit(scripts[4].prompt)
    found = played(session, 100)
    assert set(found) == {4} and facts(episode_of(found[4], 0, POOL.vocabulary)) == facts(expected[4])
    assert session.steps == 1 + alone.steps
    for script in scripts[:8]:  # and so are all their places
        session.submit(script.prompt)
    assert set(played(session, 100)) == set(range(5, 13))


def test_a_cancelled_ticket_is_gone_at_once(scripted):
    own, scripts, _, params = scripted
    session = own.open(params, KEY, 0.0, room=4)
    tickets = [session.submit(script.prompt) for script in scripts[:2]]
    session.advance(1)
    session.cancel(tickets[0])
    for ask in (session.finished, session.take, session.cancel, lambda ticket: session.view([ticket])):
        with pytest.raises(KeyError):
            ask(tickets[0])
    assert set(played(session, 100)) == {tickets[1]}


def test_an_episode_that_ends_while_another_is_admitted_is_told(scripted):
    own, scripts, _, params = scripted
    session = own.open(params, KEY, 0.0, room=4)
    session.submit(scripts[0].prompt * own.limits.context)  # no room to decode: it ends where it begins
    session.view([0])
    session.submit(scripts[1].prompt)
    session.view([1])
    assert set(played(session, 100)) == {0, 1}


def test_a_prompt_longer_than_a_session_was_opened_for_is_refused(scripted):
    own, scripts, _, params = scripted
    session = own.open(params, KEY, 0.0, longest_prompt=1)
    with pytest.raises(ValueError, match="longest_prompt is 1"):
        session.submit(scripts[0].prompt * 2)


def test_a_session_lives_in_the_memory_of_its_places(scripted):
    own, scripts, _, params = scripted
    session, sizes = own.open(params, KEY, 0.0, room=4), set()
    for _ in range(3):
        for script in scripts:
            session.submit(script.prompt)
        for _ in range(1_000):
            for ticket in session.advance(20):
                session.take(ticket)
            sizes.add(sum(x.nbytes for x in jax.tree.leaves(session._state)))
            if not session.pending:
                break
    assert len(sizes) == 1
    held = [session._waiting, session._place, session._prompt, session._cancelled, session._numbers]
    assert not any(held) and [len(free) for free in session._free] == [4]


def test_places_that_nobody_takes_are_not_used_again(scripted):
    own, scripts, expected, params = scripted
    session = own.open(params, KEY, 0.0, room=4)
    tickets = [session.submit(script.prompt) for script in scripts[:6]]
    while session.pending:
        session.advance()
    assert [ticket for ticket in tickets if session.finished(ticket)] == [0, 1, 2, 3]
    assert session.advance() == []
    for ticket in (2, 0):
        assert facts(episode_of(session.take(ticket), 0, POOL.vocabulary)) == facts(expected[ticket])
    found = played(session, 100)
    assert set(found) == {4, 5} and facts(episode_of(found[5], 0, POOL.vocabulary)) == facts(expected[5])


def test_what_is_seen_of_an_episode_is_a_beginning_of_it(scripted):
    own, scripts, expected, params = scripted
    session = own.open(params, KEY, 0.0, room=4)
    tickets = [session.submit(script.prompt) for script in scripts[:10]]
    seen = 0
    while session.pending:
        session.advance(2)
        for ticket in [ticket for ticket in tickets if ticket not in session._waiting and ticket in session._place]:
            (part,) = episodes_of(session.view([ticket]))
            tokens = part.traces[0].tokens.tolist()
            assert part.traces[0].prompt.tolist() == scripts[ticket].prompt
            assert tokens == expected[ticket].traces[0].tokens.tolist()[: len(tokens)]
            seen += bool(tokens)
            if session.finished(ticket):
                session.take(ticket)
    assert seen > 20


def episodes_of(rollout):
    return [episode_of(rollout, n, POOL.vocabulary) for n in range(len(rollout))]


def test_of_an_episode_that_waits_the_prompt_is_seen(scripted):
    own, scripts, _, params = scripted
    session = own.open(params, KEY, 0.0, room=4)
    tickets = [session.submit(script.prompt) for script in scripts[:6]]
    session.advance(3)
    runs, waits = episodes_of(session.view([tickets[0], tickets[5]]))
    assert runs.traces[0].decoded_tokens and waits.traces[0].prompt.tolist() == scripts[5].prompt
    assert not waits.traces[0].decoded_tokens and waits.answer is None


def test_what_has_not_finished_cannot_be_taken_and_what_was_taken_is_gone(scripted):
    own, scripts, _, params = scripted
    session = own.open(params, KEY, 0.0)
    ticket = session.submit(scripts[0].prompt)
    with pytest.raises(ValueError, match="episode 0 has not finished"):
        session.take(ticket)
    assert played(session, 100).keys() == {0}
    with pytest.raises(KeyError):
        session.take(ticket)
    with pytest.raises(ValueError, match="prompt 1 has 0 tokens"):
        session.submit([])


def test_a_sampled_episode_is_the_same_late_or_in_a_batch():
    # With a transformer at temperature 1: every third is submitted at once, the others when something has finished.
    in_a_batch, all_prompts = run(engine(), EPISODES), prompts(len(EPISODES))
    alike, expected = settled(in_a_batch, EPISODES), episodes(in_a_batch)
    session, numbers = engine().open(organizing_params(), KEY, 1.0, room=len(EPISODES)), {}
    waiting = [*EPISODES[1::3], *EPISODES[2::3]]
    for n in EPISODES[::3]:
        numbers[session.submit(all_prompts[n], episode_id=n)] = n
    while session.pending:
        for ticket in session.advance(4):
            n = numbers[ticket]
            assert facts(episode_of(session.take(ticket), 0, VOCABULARY)) == facts(expected[n]) or not alike[n]
            for late in waiting[:2]:
                numbers[session.submit(all_prompts[late], episode_id=late)] = late
            waiting = waiting[2:]
    assert len(numbers) == len(EPISODES) and sum(alike) > 50


def test_a_run_is_a_session_from_which_nobody_takes(scripted):
    own, scripts, expected, _ = scripted
    reads = [interpret(POOL, script)[1] for script in scripts]
    rollout = on_engine(own, POOL, scripts, reads)
    for n, episode in enumerate(expected):
        assert facts(episode_of(rollout, n, POOL.vocabulary)) == facts(episode)


def test_steps_are_the_critical_path_for_one_that_comes_late(scripted):
    # Alone in the engine, after others have ended: with a wide feed a step a token of its critical path.
    pool = Pool(agents=3, slots=1, feed_width=8, prefix=0)
    organizer = pool.encode("<FORK-1> b</FORK-1> a<JOIN-1><ANSWER> c</ANSWER>")
    worker = pool.encode(" a a<RETURN> b</RETURN>")
    script = Script(pool.encode("solve"), [organizer, *itertools.repeat(worker, 3)])
    episode, read = interpret(pool, script)
    session = pool.scripted_engine().open(table_of(pool, [script] * 2, [read] * 2), KEY, 0.0, room=2)
    steps = []
    for _ in range(2):
        before = session.steps
        session.submit(script.prompt)
        played(session, 100)
        steps.append(session.steps - before)
    assert steps[0] == steps[1] == episode.critical_path

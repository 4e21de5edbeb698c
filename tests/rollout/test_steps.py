"""Streaming: an episode alone in the engine takes as many steps as its critical path has tokens, plus its prompt.

So a shorter critical path is a shorter wall-clock. What a wide feed buys: text that is known already, the prompt and
what a worker has returned long before its Join, is fed many tokens a step, where otherwise it takes a step a token.
"""

import dataclasses

import pytest
from scripted import Pool, Script, examples, interpret, on_engine
from test_engine import scripts_for


def demo_like(late_joins):
    """Three workers of 46 tokens, six of which they return; Joins while they run, or long after they have ended."""
    worker = " a" * 38 + "<RETURN>" + " b" * 6 + "</RETURN>"
    forks = "".join(f"<FORK-{i}>{' c' * 6}</FORK-{i}> a" for i in (1, 2, 3))
    own_work = " a" * (80 if late_joins else 10)
    return forks + own_work + "<JOIN-1><JOIN-2><JOIN-3><ANSWER> b b b b</ANSWER>", worker


def script(pool, organizer, worker, prompt="solve:"):
    return Script(pool.encode(prompt), [pool.encode(text) for text in (organizer, worker, worker, worker)])


def steps_and_tokens(pool, scripts):
    """[(engine steps beside those of the prompt, critical path)] of each script, alone in the engine."""
    engine = pool.scripted_engine()
    pairs = []
    for one in scripts:
        episode, read = interpret(pool, one)
        steps = on_engine(engine, pool, [one], [read]).engine_steps
        pairs.append((steps - (-(-len(one.prompt) // pool.feed_width) - 1), episode.critical_path))
    return pairs


SIZES = {"agents": 4, "slots": 1, "context": 200, "organizer_budget": 200, "worker_budget": 200}
NARROW, WIDE = Pool(**SIZES), Pool(**SIZES, feed_width=16)


def test_a_wide_feed_takes_one_step_for_each_token_of_the_critical_path():
    scripts = [script(WIDE, *demo_like(late_joins)) for late_joins in (False, True)]
    scripts += [script(WIDE, *demo_like(late_joins=True), prompt="solve" + " a" * 40)]
    scripts += examples(scripts_for(WIDE), 60)
    pairs = steps_and_tokens(WIDE, scripts)
    assert [tokens for _, tokens in pairs[:3]] == [78, 116, 116]
    assert [steps for steps, _ in pairs] == [tokens for _, tokens in pairs]


def test_workers_that_share_a_row_take_turns_and_the_one_that_is_waited_for_is_next():
    # Sub-queries are complete at steps 8, 17 and 26, a worker takes 46 steps, and the answer 6.
    in_order, worker = demo_like(late_joins=False)
    third_first = in_order.replace("<JOIN-1><JOIN-2><JOIN-3>", "<JOIN-3>" + " a" * 40 + "<JOIN-2><JOIN-1>")
    scripts = [script(WIDE, organizer, worker) for organizer in (in_order, third_first)]
    assert steps_and_tokens(dataclasses.replace(WIDE, worker_rows=1), scripts) == [
        (8 + 3 * 46 + 6, 26 + 46 + 6),
        (8 + 3 * 46 + 1 + 6, 26 + 46 + 40 + 2 + 6),  # the second works while the organizer does
    ]


def test_feeding_one_token_a_step_costs_a_step_for_each_token_that_is_joined_late():
    scripts = [script(NARROW, *demo_like(late_joins)) for late_joins in (False, True)]
    scripts += examples(scripts_for(NARROW), 60)
    pairs = steps_and_tokens(NARROW, scripts)
    # Three times six tokens and a closing tag: free where the organizer waits, 18% more steps where it doesn't.
    assert pairs[:2] == [(78, 78), (116 + 21, 116)]
    for one, (steps, tokens) in zip(scripts, pairs, strict=True):
        organizer, *workers = interpret(NARROW, one)[0].traces
        # What may be the start of a tag (" a<") is held back: a worker whose sub-query ends so starts a step late.
        assert tokens <= steps <= tokens + sum(~organizer.sampled) + len(workers)


@pytest.mark.slow
def test_a_step_is_wide_only_where_enough_tokens_wait():
    late = demo_like(late_joins=True)
    steps = {
        wide_at: steps_and_tokens(pool, [script(pool, *late)])[0][0]
        for wide_at in (0, 1, 6, 7)
        for pool in [dataclasses.replace(WIDE, wide_at=wide_at)]
    }
    # At each of three late Joins seven tokens come behind `<JOIN-i>`, and the organizer is the only one to work: seven
    # would wait. Of the two tokens of the prompt one does.
    assert steps == {0: 116, 1: 116 + 1, 6: 116 + 1, 7: 116 + 1 + 3 * 7}

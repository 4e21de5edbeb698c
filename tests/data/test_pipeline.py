"""Demonstrations through the protocol, and iterators that go on where they were."""

import dataclasses
import json

import numpy as np
import pytest

from asyncthink_jax.data import pipeline
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.tasks import Countdown
from asyncthink_jax.tasks.countdown_scripts import Organizer, oracle_demonstration
from asyncthink_jax.tasks.countdown_search import Problem, pairs

TASK = Countdown(few_share=0.5)


def demonstrations(splits, tokenizer, kind="random", task=TASK, **settings):
    return pipeline.Demonstrations(task, splits, kind, tokenizer, **settings)


def some_scripts(source, n):
    rng = np.random.default_rng(3)
    return [source.script(rng) for _ in range(n)]


@pytest.mark.parametrize(
    ("kind", "agents"),
    [
        (kind, agents)
        for kind in ("random", "oracle", "sequential")
        for agents in range(2 if kind == "oracle" else 1, 5)
    ],
)
def test_demonstrations_are_well_formed_and_right(splits, tokenizer, kind, agents):
    source = demonstrations(splits, tokenizer, kind, agents=agents)
    for script in some_scripts(source, 40):
        episode = pipeline.played(script, tokenizer, Grammar(agents, 6))
        assert episode.format_error is None and episode.traces[0].end == "answer"
        score = TASK.score(script.problem, episode.answer)
        assert score["wrong"] == 0
        if kind == "oracle":
            assert score["correct"] == min(4, len(TASK.solutions(script.problem)))
            assert [trace.end for trace in episode.traces[1:]] == ["return"] * 6


@pytest.mark.parametrize("kind", ["random", "oracle", "sequential"])
def test_training_traces_are_the_episodes_traces(splits, tokenizer, kind):
    source = demonstrations(splits, tokenizer, kind)
    for script in some_scripts(source, 60):
        episode = pipeline.played(script, tokenizer, Grammar(4, 6))
        traces = pipeline.training_traces(script, tokenizer)
        assert len(traces) == len(episode.traces)
        for ours, theirs in zip(traces, episode.traces, strict=True):
            tokens = [*theirs.prompt, *theirs.tokens]
            weights = [0.0] * len(theirs.prompt) + theirs.sampled.astype(float).tolist()
            if theirs.end != "stopped":  # a stopped worker is trained on to its own end
                assert len(ours["tokens"]) == len(tokens)
            assert ours["tokens"].tolist()[: len(tokens)] == tokens
            assert ours["loss_weights"].tolist()[: len(tokens)] == weights


def test_prompts_and_joined_text_are_not_trained(splits, tokenizer):
    script = oracle_demonstration(Problem((5, 6, 8, 10), 3), TASK.search)
    organizer, first_worker, *_ = pipeline.training_traces(script, tokenizer)
    untrained = tokenizer.decode(organizer["tokens"][organizer["loss_weights"] == 0])
    joined = "".join(f"{script.returns[i]}</JOIN-{i}>" for i in range(1, 7))
    assert untrained == "solve 5 6 8 10 = 3 :" + joined
    trained = tokenizer.decode(organizer["tokens"][organizer["loss_weights"] == 1])
    assert trained == "".join(script.organizer)
    assert tokenizer.decode(first_worker["tokens"]) == "work 5 6 8 10 = 3 :" + script.workers[1]


def same(one, two):
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_work_alone_is_searches_tallies_and_answers(splits, tokenizer):
    problem = splits["train"][0]
    writer = Organizer(problem, TASK.search)
    first, second, *_ = pairs(problem)
    fork_id = writer.fork(first)
    writer.work(second)
    writer.join(fork_id)
    script = writer.answer()
    text = TASK.search(problem, second)[0]
    organizer, worker = pipeline.training_traces(script, tokenizer, work_only=True)
    trained = tokenizer.decode(organizer["tokens"][organizer["loss_weights"] > 0].tolist())
    tallies = [piece for piece in script.organizer if piece.startswith(" #")]
    assert trained == text + "".join(tallies) + script.organizer[-2]
    np.testing.assert_equal(worker, pipeline.training_traces(script, tokenizer)[1])


def test_a_demonstration_iterator_goes_on_from_its_saved_state(splits, tokenizer):
    source = demonstrations(splits, tokenizer)
    first = pipeline.demonstration_iterator(source, 4, 256, seed=5)
    batches = [next(first) for _ in range(3)]
    state = json.loads(json.dumps(first.get_state()))  # it has to fit into a checkpoint
    following = [next(first) for _ in range(2)]
    second = pipeline.demonstration_iterator(source, 4, 256, seed=5)
    second.set_state(state)
    assert all(same(next(second), batch) for batch in following)
    assert not same(batches[0], batches[1])
    assert not same(next(pipeline.demonstration_iterator(source, 4, 256, seed=6)), batches[0])


def test_a_problem_iterator_goes_on_from_its_saved_state(splits):
    problems = splits["validation"]
    first = pipeline.problem_iterator(problems, seed=1)
    epochs = [[next(first) for _ in range(len(problems))] for _ in range(2)]
    assert all(set(epoch) == set(problems) for epoch in epochs)
    assert epochs[0] != epochs[1] != problems
    state = json.loads(json.dumps(first.get_state()))
    following = [next(first) for _ in range(5)]
    second = pipeline.problem_iterator(problems, seed=1)
    second.set_state(state)
    assert [next(second) for _ in range(5)] == following


@pytest.mark.parametrize("kind", ["random", "oracle", "sequential"])
def test_batches_are_full_and_hold_whole_demonstrations(splits, tokenizer, kind):
    length = 512 if kind == "sequential" else 256
    batch = next(pipeline.demonstration_iterator(demonstrations(splits, tokenizer, kind), 16, length, seed=0))
    assert {name: values.shape for name, values in batch.items()} == dict.fromkeys(batch, (16, length))
    assert (batch["segment_ids"] > 0).mean() > 0.9
    starts = (batch["positions"] == 0) & (batch["segment_ids"] > 0)
    assert set(batch["tokens"][starts]) <= {tokenizer.piece_to_id("solve"), tokenizer.piece_to_id("work")}
    assert not batch["loss_weights"][starts].any()
    closers = {tokenizer.piece_to_id(tag) for tag in ("</ANSWER>", "</RETURN>")}
    for row in range(16):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            assert batch["tokens"][row][batch["segment_ids"][row] == segment][-1] in closers


def test_rows_too_short_for_any_demonstration_are_refused(splits, tokenizer):
    source = demonstrations(splits, tokenizer, "oracle")
    with pytest.raises(ValueError, match="row_length 40 is too short"):
        next(pipeline.demonstration_iterator(source, 4, 40, seed=0))


def test_a_demonstration_that_is_too_long_for_a_row_is_drawn_again(splits, tokenizer):
    source, rng = demonstrations(splits, tokenizer, "random"), np.random.default_rng(0)
    of = [[len(trace["tokens"]) for trace in pipeline.drawn_traces(source, 1000, rng)] for _ in range(100)]
    middle = sorted(map(max, of))[50]
    rng = np.random.default_rng(0)
    short = [[len(trace["tokens"]) for trace in pipeline.drawn_traces(source, middle, rng)] for _ in range(20)]
    assert short == [lengths for lengths in of if max(lengths) <= middle][:20]


def test_hits_and_answers_weigh_what_the_config_says(splits, tokenizer):
    def batch(**weights):
        source = demonstrations(splits, tokenizer, task=dataclasses.replace(TASK, **weights))
        return pipeline.packed_batch(source, 8, 256, np.random.default_rng(5))

    plain, weighted = batch(), batch(hit_weight=4.0, answer_weight=3.0)
    np.testing.assert_array_equal(plain["tokens"], weighted["tokens"])
    ratio = weighted["loss_weights"] / np.maximum(plain["loss_weights"], 1e-9)
    hit, answer = tokenizer.piece_to_id(" !"), tokenizer.piece_to_id("<ANSWER>")
    seen = set()
    for row in range(8):
        for segment in range(1, plain["segment_ids"][row].max() + 1):
            answers = False
            for at in np.flatnonzero(plain["segment_ids"][row] == segment):
                if plain["loss_weights"][row, at]:
                    expected = (4.0 if plain["tokens"][row, at] == hit else 1.0) * (3.0 if answers else 1.0)
                    assert ratio[row, at] == expected
                    seen.add(expected)
                answers |= plain["tokens"][row, at] == answer
    assert seen == {1.0, 3.0, 4.0}

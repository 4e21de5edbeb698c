"""The interpreter, the engine's reference: joins, clocks, budgets, rows that fill up, and errors."""

import pytest
from scripts import EOS, WORDS, decode, encode, wire_of

from asyncthink_jax.protocol.episode import clock
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.interpreter import demonstration, run

GRAMMAR = Grammar(capacity=3, max_forks=3)


def play(organizer, workers=None, *, vocabulary=WORDS, grammar=GRAMMAR, endings=(), **limits):
    """Scripted texts through the protocol; a trace in `endings` samples end-of-text after its script."""
    scripts = {
        i: encode(text, vocabulary) + [EOS] * (i in endings) for i, text in {0: organizer, **(workers or {})}.items()
    }
    wire = wire_of(grammar, vocabulary, stop_ids=[EOS] if vocabulary is WORDS else [])
    return demonstration(wire, encode("solve:", vocabulary), scripts.pop(0), scripts, **limits)


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
    wire = wire_of(GRAMMAR, prefix=" a" * 9)
    episode = run(wire, [], scripted("<FORK-1></FORK-1><JOIN-1><ANSWER></ANSWER>"), 99, 99, 9)
    worker = episode.traces[1]
    assert (worker.prompt.tolist(), worker.tokens.size, worker.end) == (wire.worker_prefix, 0, "budget")
    assert text_of(episode.traces[0]) == "<FORK-1></FORK-1><JOIN-1></JOIN-1><ANSWER></ANSWER>"
    assert (episode.format_error, episode.critical_path, clock(episode.traces)[1]) == (None, 5, (2, 2))


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

    run(wire_of(GRAMMAR), encode("solve"), model, 99, 99, 99)
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

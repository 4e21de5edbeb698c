"""The lanes of an episode on a terminal, rendered to text for made-up episodes."""

import io
import re
import unicodedata

import pytest
from rich.cells import cell_len
from rich.console import Console
from test_timeline import episode, organizer, worker

from asyncthink_jax.protocol.grammar import FormatError
from asyncthink_jax.report import lanes

FORKS = "<FORK-1> 5 6</FORK-1><FORK-2> 5 8</FORK-2>"
EVENTS = [("fork", 1, 4), ("fork", 2, 8)]


def asked(*traces, question="5 6 8 10 = 3", answer=None, error=None, **more):
    one = episode(*traces, **more)
    one.update(problem={"question": question}, answer=answer, format_error=error)
    one.update(critical_path=max(trace["end_step"] for trace in traces), concurrency=0.5)
    return one


def shown(one, width=100, height=40, note=""):
    """The lines of the picture."""
    console = Console(file=io.StringIO(), width=width, height=height, record=True, color_system=None)
    console.print(lanes.picture(one, width=width, height=height, note=note))
    return console.file.getvalue().split("\n")


def lane(lines, name):
    """The lines of one lane: its head, and what is below it."""
    start = next(n for n, line in enumerate(lines) if line.startswith(name))
    below = list(lines[start + 1 :])
    return [lines[start], *below[: next(n for n, line in enumerate(below) if not line.startswith(" "))]]


def bar(line):
    return line[lanes.LABEL : 100 - lanes.STATUS]


# --- Who does what.


def test_two_workers_run_from_their_forks_on():
    lines = shown(asked(organizer(10, EVENTS, 10, text=FORKS, end="stopped"), *running((1, 4, 10), (2, 8, 10))))
    assert lane(lines, "organizer")[0].split() == ["organizer", "━━━┯━━━┯━━", "thinks"]
    head, about, text = lane(lines, "worker 1")[:3]
    assert bar(head).rstrip() == "    ━━━━━━" and head.endswith("thinks".ljust(lanes.STATUS).rstrip())
    assert (about.strip(), text.strip()) == ("5 6", "+ 11")
    assert bar(lane(lines, "worker 2")[0]).rstrip() == "        ━━"
    assert lane(lines, "worker 2")[1].strip() == "5 8"


def running(*workers):
    return [worker(fork_id, start, end, text=" + 11", how="stopped") for fork_id, start, end in workers]


def test_an_organizer_waits_for_a_worker_that_still_runs():
    events = [*EVENTS, ("join", 1, 12)]
    text = FORKS + " a b c<JOIN-1>"
    one = asked(organizer(12, events, 18, text=text, end="stopped"), *running((1, 4, 18), (2, 8, 18)))
    head = lane(shown(one), "organizer")[0]
    assert bar(head).rstrip() == "━━━┯━━━┯━━━━╌╌╌╌╌╌" and head.endswith("waits for worker 1")


def test_who_waits_does_not_think_where_a_column_is_several_steps():
    events = [("fork", 1, 4), ("join", 1, 60)]
    text = "<FORK-1> 5 6</FORK-1> a<JOIN-1>"
    one = asked(organizer(60, events, 89, text=text, end="stopped"), *running((1, 4, 89)))
    assert bar(lane(shown(one), "organizer")[0]).rstrip() == "━┯" + "━" * 28 + "╌" * 15


def test_what_was_returned_is_there_until_it_is_joined():
    returned = worker(1, 4, 10, text=" + 11<RETURN> none</RETURN>")
    before = asked(organizer(16, EVENTS, 16, text=FORKS, end="stopped"), returned, *running((2, 8, 16)))
    head = lane(shown(before), "worker 1")[0]
    assert bar(head).rstrip() == "    ━━━━━━──────" and head.rstrip().endswith("has returned")
    events = [*EVENTS, ("join", 1, 17)]
    after = asked(organizer(20, events, 20, text=FORKS, end="stopped"), returned, *running((2, 8, 20)))
    assert lane(shown(after), "worker 1")[0].rstrip().endswith("joined")


def test_a_lane_that_is_free_takes_the_next_worker_and_keeps_its_bars():
    events = [("fork", 1, 4), ("join", 1, 12), ("fork", 2, 16)]
    text = "<FORK-1> 5 6</FORK-1> a<JOIN-1> none</JOIN-1><FORK-2> 5 8</FORK-2>"
    one = asked(organizer(20, events, 20, text=text, end="stopped"), worker(1, 4, 8), *running((2, 16, 20)), agents=2)
    lines = shown(one)
    assert bar(lane(lines, "worker 2")[0]).rstrip() == "    ━━━━────    ━━━━"
    assert not [line for line in lines if line.startswith("worker 1")]
    assert [line for line in shown(asked(organizer(2, [], 2, end="stopped"))) if line.startswith("worker")] == [
        "worker".ljust(100 - lanes.STATUS) + "free"
    ] * 2


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("", "reads"),
        (" a", "thinks"),
        ("<FORK-1> 5", "forks worker 1"),
        ("<FORK-1> 5</FORK-1> a", "thinks"),
        ("<ANSWER> 5", "answers"),
    ],
)
def test_what_an_organizer_does_shows_in_its_text(text, does):
    one = asked(organizer(len(text.split()), [], len(text.split()), text=text, end="stopped"), agents=1)
    assert lane(shown(one), "organizer")[0].endswith(does.ljust(lanes.STATUS).rstrip())


def test_a_worker_that_fails_is_marked_and_named():
    failed = worker(1, 4, 9, text=" + 11<FORK-1>", how="format_error")
    events = [("fork", 1, 4)]
    one = asked(organizer(12, events, 12, text=FORKS, end="stopped"), failed, error="wrong_role")
    head = lane(shown(one), "worker 1")[0]
    assert bar(head).rstrip() == "    ━━━━✗───" and head.rstrip().endswith("format error")
    assert lanes.how_it_ended(one) == (
        "with a format error: worker 1 wrote a tag that belongs to the other role (wrong_role)"
    )


def test_every_format_error_is_said_in_words():
    names = {error.name.lower() for error in FormatError} - {"none"}
    assert names == {*lanes.ERRORS, "no_answer"}
    one = asked(organizer(5, [], 5, end="budget"), error="no_answer")
    assert lanes.how_it_ended(one).startswith("without an answer: ")


def test_the_critical_path_is_as_long_as_the_episode_and_goes_through_the_worker_that_was_waited_for():
    events = [("fork", 1, 4), ("join", 1, 6)]
    one = asked(organizer(10, events, 20, text=FORKS), worker(1, 4, 16))
    console = Console(file=io.StringIO(), width=100, color_system="standard", force_terminal=True)
    console.print(lanes.picture(one, width=100, height=40))
    line = next(line for line in console.file.getvalue().split("\n") if "critical path" in line)
    colors = [(code, len(cells)) for code, cells in re.findall(r"\x1b\[(\d+)m(━+)", line)]
    blue, cyan = "34", "36"
    assert colors == [(blue, 4), (cyan, 12), (blue, 4)]
    assert shown(one)[-2].endswith("20 steps".ljust(lanes.STATUS).rstrip())


def test_parallel_traces_have_a_lane_each():
    one = asked(organizer(10, [], 10, end="answer"), organizer(14, [], 14, end="stopped"), agents=2)
    lines = shown(one)
    assert bar(lane(lines, "trace 1")[0]).rstrip() == "━" * 10 and "has answered" in lane(lines, "trace 1")[0]
    assert bar(lane(lines, "trace 2")[0]).rstrip() == "━" * 14 and "thinks" in lane(lines, "trace 2")[0]


# --- What fits.


def test_bars_stand_still_until_twice_as_many_steps_share_a_column():
    columns = 100 - lanes.LABEL - lanes.STATUS - 1
    for steps, length in (
        (columns, columns),
        (columns + 1, -(-(columns + 1) // 2)),
        (3 * columns, -(-3 * columns // 4)),
    ):
        one = asked(organizer(steps, [], steps, end="stopped"), agents=1)
        assert len(bar(lane(shown(one), "organizer")[0]).rstrip()) == length


def test_the_end_of_a_long_text_is_shown_and_its_lines_stand_still_while_it_grows():
    words = [f"w{n}" for n in range(2000)]
    before = None
    for count in range(1500, 1530):
        one = asked(organizer(count, [], count, text=" ".join(words[:count]), end="stopped"), agents=1)
        lines = [line.strip() for line in lane(shown(one), "organizer")[1:] if line.strip()]
        assert lines[-1].split()[-1] == f"w{count - 1}"
        if before is not None:
            assert lines[:-1] == before[:-1] or lines[:-2] == before[1:-1]
        before = lines


@pytest.mark.parametrize("width", [20, 40, 63, 64, 80, 200])
@pytest.mark.parametrize("height", [8, 24, 60])
def test_no_line_is_wider_than_the_terminal_and_there_are_no_more_than_it_has(width, height):
    question = "日本語の質問 " * 30
    text = FORKS + " 思考 🙂 word " * 80
    one = asked(
        organizer(40, EVENTS, 40, text=text, end="stopped"), *running((1, 4, 30), (2, 8, 40)), question=question
    )
    lines = shown(one, width, height, note="step 40 · 88 tokens · 12,345 tokens/s")
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    assert {"organizer", "worker 1", "worker 2", "critical path"} <= {line[: lanes.LABEL].strip() for line in lines}


# --- What a model writes is data.

HOSTILE = "\x1b[31mred\x1b[0m \x07bell \x9b2J \r\n \u202etxet \u2066x \x7f [red]markup[/red] \ud800 \x1b]0;title\x07"


def test_control_characters_and_escapes_are_made_visible():
    one = asked(
        organizer(9, EVENTS[:1], 9, text=f"<FORK-1>{HOSTILE}</FORK-1>{HOSTILE}<ANSWER>{HOSTILE}</ANSWER>"),
        worker(1, 4, 9, text=HOSTILE),
        question=HOSTILE,
        answer=HOSTILE,
    )
    texts = ["\n".join(shown(one, 300)), lanes.transcript(one), *(text for _, text in lanes.summary(one))]
    for text in texts:
        wrong = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}
        assert not wrong and text.encode()
    assert "␛[31mred␛[0m ␇bell" in texts[0]


def test_markup_is_shown_as_it_was_written():
    one = asked(organizer(9, [], 9, text="a [red]b[/red] [link=x]c [bold]"), question="[blue]q[/blue]", agents=1)
    text = "\n".join(shown(one))
    assert "a [red]b[/red] [link=x]c [bold]" in text and "[blue]q[/blue]" in text


# --- The finished episode as text.


def test_a_transcript_has_each_worker_below_its_fork():
    events = [("fork", 1, 4), ("join", 1, 12)]
    text = "<FORK-1> 5 6</FORK-1> a b<JOIN-1> 7\n8</JOIN-1> c<ANSWER> 9</ANSWER>"
    one = asked(organizer(16, events, 16, text=text), worker(1, 4, 10, text=" + 11<RETURN> 7\n8</RETURN>"))
    assert lanes.transcript(one).split("\n") == [
        "organizer, steps 1 to 16",
        "  <FORK-1> 5 6</FORK-1>",
        "    worker 1, steps 5 to 10",
        "      + 11",
        "      <RETURN> 7",
        "      8</RETURN>",
        "  a b",
        "  <JOIN-1> 7",
        "  8</JOIN-1>",
        "  c",
        "  <ANSWER> 9</ANSWER>",
    ]


def test_a_summary_says_what_it_took():
    one = asked(organizer(16, [], 16), answer=" 5 \n 6 ", agents=1)
    assert lanes.summary(one) == [
        ("answer", "5\n 6"),
        ("critical path", "16 steps"),
        ("tokens", "16, of all agents"),
        ("concurrency", "0.50 of 1 agents"),
        ("ended", "with an answer"),
    ]
    assert dict(lanes.summary(asked(organizer(16, [], 16), error="no_answer")))["answer"] == "none"

"""Files of demonstrations: what is written is read, and what the protocol doesn't allow is refused with its line."""

import json

import numpy as np
import pytest

from asyncthink_jax.data import demonstration_file, pipeline
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.tasks import Countdown

TASK = Countdown()
POOL = Grammar(4, 6)
ALONE = Grammar(1, 0)
FORKS = ["Let me see.", "<FORK-2>", " 5 8", "</FORK-2>", "<FORK-1>", " 5 6", "</FORK-1>"]


def good():
    """A demonstration as its line has it."""
    return {
        "problem": {"numbers": [5, 6, 8, 10], "target": 3, "n_solutions": 4},
        "organizer": [*FORKS, " so", "<JOIN-2>", "<ANSWER>", " 8 - 5", "</ANSWER>"],
        "work": [7, 10],
        "workers": {"1": " hm <RETURN> none</RETURN>", "2": " 8 - 5 <RETURN> 8 - 5</RETURN>"},
        "returns": {"1": " none", "2": " 8 - 5"},
    }


def read(tmp_path, *records, grammar=POOL):
    path = tmp_path / "shown.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records), encoding="utf-8")
    return demonstration_file.read(path, TASK.from_json, grammar)


def test_what_a_program_demonstrates_survives_its_file(tmp_path, splits):
    rng = np.random.default_rng(0)
    scripts = [TASK.script(splits, kind, 4, rng) for kind in ("random", "oracle", "sequential") for _ in range(30)]
    assert read(tmp_path, *(script.to_json() for script in scripts)) == scripts


def test_workers_come_in_the_order_of_their_forks_and_blank_lines_are_nothing(tmp_path):
    (script,) = read(tmp_path, "", good(), "  ", "")
    assert list(script.workers) == [2, 1]
    assert script.problem.target == 3 and script.work == {7, 10}


def test_one_agent_alone_takes_demonstrations_without_workers(tmp_path):
    alone = good() | {"organizer": ["<ANSWER>", " 8 - 5", "</ANSWER>"], "work": [], "workers": {}, "returns": {}}
    assert len(read(tmp_path, good(), alone, grammar=ALONE)) == 1
    assert len(read(tmp_path, good(), alone)) == 2
    with pytest.raises(ValueError, match=r"shown.jsonl has no demonstration without workers, as one agent needs them$"):
        read(tmp_path, good(), grammar=ALONE)


def organizer(*pieces):
    return lambda record: record | {"organizer": list(pieces)}


def replaced(old, new):
    """The line with a text in it replaced."""
    return lambda record: json.loads(json.dumps(record).replace(old, new))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda record: "{", "Expecting property name"),
        (lambda record: "[" * 100_000, "more than 100 brackets"),
        (lambda record: "[3]", "list indices"),
        (lambda record: {name: record[name] for name in record if name != "organizer"}, "no field 'organizer'"),
        (lambda record: record | {"problem": {"numbers": [5]}}, "no field 'target'"),
        (lambda record: record | {"organizer": 3}, "'int' object is not iterable"),
        (lambda record: record | {"organizer": ["<ANSWER>", 3, "</ANSWER>"]}, "3 is no text"),
        (lambda record: record | {"workers": ["a"]}, "dictionary update"),
        (lambda record: record | {"workers": {"one": "a"}}, "invalid literal"),
        (lambda record: record | {"work": [float("inf")]}, "Infinity is no number"),
        (lambda record: record | {"work": [float("nan")]}, "NaN is no number"),
        (lambda record: json.dumps(record).replace("[7, 10]", f"[{'1' * 5000}]"), "a number of 5000 digits"),
        (replaced("FORK-1>", "FORK-1>\\u001b[2J"), r"\x1b[2J"),
        (lambda record: record | {"work": [12]}, "work [12] names a place beyond the organizer's 12"),
        (replaced("FORK-1>", "FORK-7>"), "piece 4 of the organizer, '<FORK-7>': id_out_of_range"),
        (replaced("FORK-1>", "FORK-2>"), "piece 4 of the organizer, '<FORK-2>': fork_twice"),
        (replaced("JOIN-2>", "JOIN-3>"), "piece 8 of the organizer, '<JOIN-3>': join_unknown"),
        (replaced('"<JOIN-2>"', '"see <JOIN-2>"'), "piece 8 of the organizer, 'see <JOIN-2>', is not one tag alone"),
        (replaced('"<JOIN-2>"', '"<JOIN", "-2>"'), "piece 9 of the organizer, '-2>', is not one tag alone"),
        (replaced('"<JOIN-2>"', '"<JOIN-2><ANSWER>"'), "piece 8 of the organizer, '<JOIN-2><ANSWER>', is not one tag"),
        (replaced('" 5 8", ', ""), "piece 2 of the organizer, '</FORK-2>', needs its sub-query as one piece"),
        (replaced('" 5 8", ', '" 5", " 8", '), "piece 4 of the organizer, '</FORK-2>', needs its sub-query as one"),
        (replaced(', "</ANSWER>"]', "]"), "the organizer ends without an answer"),
        (
            replaced('"</ANSWER>"]', '"</ANSWER>", " bye"]'),
            "piece 12 of the organizer, ' bye', stands behind its answer",
        ),
        (replaced('"1": " hm <RETURN> none</RETURN>", ', ""), "workers are those of [2], the organizer forks [1, 2]"),
        (replaced('"1": " none", ', ""), "returns are those of [2], the organizer forks [1, 2]"),
        (replaced("none</RETURN>", "none"), "the text of worker 1 does not end with its </RETURN>"),
        (replaced("none</RETURN>", "none</RETURN> !"), "the text of worker 1 does not end with its </RETURN>"),
        (replaced(" hm ", " hm <JOIN-1> "), "worker 1: wrong_role"),
        (replaced('"1": " none"', '"1": " nothing"'), "returns[1] is not what stands in the <RETURN> of worker 1"),
    ],
)
def test_a_broken_line_is_told_in_one_with_its_number(tmp_path, change, says):
    broken = change(good())
    with pytest.raises(ValueError) as error:
        read(tmp_path, good(), broken)
    line = str(error.value)
    assert line.startswith(f"data.demonstrations: {tmp_path / 'shown.jsonl'}, line 2: ") and says in line
    assert len(line.splitlines()) == 1


def test_a_pool_that_is_too_small_for_a_demonstration_refuses_it(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: piece 4 of the organizer, '<FORK-1>': pool_full$"):
        read(tmp_path, good(), grammar=Grammar(2, 6))


def test_a_byte_order_mark_and_line_ends_of_windows_are_nothing(tmp_path):
    lines = "\r\n".join(["\ufeff" + json.dumps(good()), json.dumps(good()), ""])
    (tmp_path / "shown.jsonl").write_bytes(lines.encode())
    assert len(demonstration_file.read(tmp_path / "shown.jsonl", TASK.from_json, POOL)) == 2


def test_what_stands_in_place_of_a_file_is_told(tmp_path):
    (tmp_path / "shown.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"data.demonstrations: .*shown.jsonl is a git-lfs pointer"):
        demonstration_file.read(tmp_path / "shown.jsonl", TASK.from_json, POOL)
    with pytest.raises(FileNotFoundError, match=r"data.demonstrations: .* can't be read: Is a directory"):
        demonstration_file.read(tmp_path, TASK.from_json, POOL)


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path):
    path = tmp_path / "shown.jsonl"
    path.write_bytes(json.dumps(good()).encode() + b'\n{"organizer": "\xff"}\n')
    with pytest.raises(ValueError, match=r"shown.jsonl, line 2: not UTF-8 at byte 16"):
        demonstration_file.read(path, TASK.from_json, POOL)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^data.demonstrations: there is no file /"):
        demonstration_file.read(tmp_path / "nowhere.jsonl", TASK.from_json, POOL)


def test_demonstrations_are_drawn_from_the_file_in_place_of_the_program(tmp_path, splits, tokenizer):
    others = [good() | {"problem": {"numbers": [5, 6, 8, 10], "target": n, "n_solutions": 4}} for n in range(1, 9)]
    scripts = read(tmp_path, *others)
    source = pipeline.Demonstrations(TASK, splits, "random", tokenizer, scripts=scripts)
    rng = np.random.default_rng(0)
    assert {source.script(rng).problem.target for _ in range(200)} == set(range(1, 9))
    assert len(pipeline.drawn_traces(source, 1000, rng)) == 3

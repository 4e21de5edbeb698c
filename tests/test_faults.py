"""Kills, damaged files and hostile ones: a command does what is right, or says one line. See experiments/faults.py."""

import collections
import functools
import json
import random

import pytest

from experiments.damage import cuts, damages, flips, mutated
from experiments.faults import FINE, Case, Sweeps, judged
from experiments.fork_server import MEMORY, Outcome

LINE = "error: model.gguf is no GGUF file\n"


@pytest.mark.parametrize(
    ("outcome", "came"),
    [
        (Outcome(0, "done", "", 0, 1), "right"),
        (Outcome(0, "", "warning: so and so\n", 0, 1), "right"),
        (Outcome(2, "", LINE, 0, 1), "refused"),
        (Outcome(2, "", f"warning: so\n{LINE}", 0, 1), "refused"),
        (Outcome(2, "", "no", 0, 1), "no error line"),
        (Outcome(1, "", "", 0, 1), "no error line"),
        (Outcome(2, "", f"so\n{LINE}", 0, 1), "more than one line"),
        (Outcome(1, "", "Traceback (most recent call last):\n  x\n", 0, 1), "traceback"),
        (Outcome(0, "", "Traceback (most recent call last):\n  x\n", 0, 1), "traceback"),
        (Outcome(-11, "", "", 0, 1), "signal 11"),
        (Outcome(None, "", "", 0, 120), "hang"),
        (Outcome(0, "", "", MEMORY + 1, 1), "memory"),
    ],
)
def test_what_a_command_may_do_and_what_not(outcome, came):
    assert judged("", outcome).came == came


def test_another_result_without_a_word_is_a_fault():
    case = judged("a flip", Outcome(0, "", "", 0, 1), lambda: "loss of sft step 1: 2, not 1")
    assert case == Case("a flip", "silent difference", "loss of sft step 1: 2, not 1 | ")


def test_a_loss_that_is_told_is_none():
    outcome = Outcome(0, "", "warning: damaged checkpoint best/3 is kept as damaged/best_3\n", 0, 1)
    assert judged("", outcome, lambda: "no best").came == "told" in FINE


def test_a_file_is_cut_at_places_all_over_it_and_flipped_in_one_bit():
    data = bytes(range(100))
    assert [len(cut) for _, cut in cuts(data, 20)] == list(range(0, 100, 5))
    assert [cut for _, cut in cuts(b"ab", 20)] == [b"", b"a"] and not list(cuts(b"", 20))
    flipped = [one for _, one in flips(data, 20, random.Random(0))]
    assert len(set(flipped)) == 20
    assert all(sum((a ^ b).bit_count() for a, b in zip(one, data, strict=True)) == 1 for one in flipped)


def test_every_kind_of_file_of_a_run_is_damaged_and_files_of_a_kind_take_turns(tmp_path):
    arrays = [tmp_path / f"latest/{step}/d/{digit * 32}" for step, digit in ((46, "0"), (48, "a"))]
    for file in (*arrays, tmp_path / "config.json", tmp_path / "empty.lock"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if file.suffix == ".lock" else bytes(100))
    done = collections.Counter(str(file) for file, *_ in damages(tmp_path, 20, seed=0))
    assert done == {**{str(file.relative_to(tmp_path)): 20 for file in arrays}, "config.json": 40}


def test_a_sweep_that_was_stopped_goes_on(tmp_path):
    begun, stops_at = [], {2}

    def task(number):
        begun.append(number)
        if number in stops_at:
            stops_at.remove(number)
            raise KeyboardInterrupt
        return [Case(f"case {number}", "right")]

    tasks = [functools.partial(task, number) for number in range(3)]
    with pytest.raises(KeyboardInterrupt):
        list(Sweeps(tmp_path, seed=0).side_by_side("kills", tasks))
    begun.clear()
    cases = list(Sweeps(tmp_path, seed=0).side_by_side("kills", tasks))
    assert [case.done for case in cases] == ["case 0", "case 1", "case 2"] and begun == [2]
    list(Sweeps(tmp_path, seed=1).side_by_side("kills", tasks))
    assert sorted(begun[1:]) == [0, 1, 2], "another seed has other cases"


def test_mutations_are_many_and_the_same_for_a_seed():
    data = json.dumps({"layers": 2, "names": ["a", "b"]}).encode()
    first, again = ([mutated(data, random.Random(n)) for n in range(300)] for _ in range(2))
    assert first == again and len({one for _, one in first}) > 200
    assert any(b"4096" in one for _, one in first), "values of another kind"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    opened = Sweeps(tmp_path_factory.mktemp("faults"), seed=0)
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("kills", 8), ("run_files", 20), ("inputs", 40)])
def test_a_sweep_finds_no_fault(sweeps, sweep, name, count):
    faults = [case for case in getattr(sweeps, name)(count * sweep) if case.came not in FINE]
    assert not faults

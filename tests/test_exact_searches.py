"""Searches are counted as exact word for word, by who did them, and only those that came to their end."""

import json

import pytest

from asyncthink_jax.config import Config, to_json
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Countdown, Sudoku
from asyncthink_jax.tasks.countdown_search import Problem, sub_query, worker_text
from experiments.exact_searches import main, shares

TASK = Countdown()
PROBLEM = Problem((2, 7, 9, 20), 11)
FIRST, SECOND = (2, 9), (7, 20)


def text_of(pair):
    return TASK.search(PROBLEM, pair)[0]


def own(pair, found):
    return f"{sub_query(PROBLEM, pair)} :{found}"


def organizer(*spans):
    return {"role": "organizer", "prompt": "solve 2 7 9 20 = 11 :", "spans": spans, "end": "answer"}


def config_of(task):
    model = ModelConfig(vocab_size=0, layers=1, width=8, heads=1, kv_heads=1, head_dim=8, mlp_width=8)
    return to_json(Config(name="run", model=model, task=task))


def worker(pair, text, end="return"):
    prompt = f"work{sub_query(PROBLEM, pair)} :"
    return {"role": "worker", "prompt": prompt, "spans": [("decoded", text)], "end": end}


def counted(*traces):
    return shares([{"problem": PROBLEM.to_json(), "traces": traces}], TASK)


def test_of_an_organizer_what_stands_before_a_tally_a_tag_or_a_join_is_a_search():
    both = own(FIRST, text_of(FIRST)) + " #2" + own(SECOND, text_of(SECOND))
    assert counted(organizer(("decoded", f"{both}<JOIN-1>"), ("joined", " none</JOIN-1>"))) == {"organizer": (2, 1)}
    assert counted(organizer(("decoded", f"<FORK-1>{sub_query(PROBLEM, FIRST)}</FORK-1>{both}"))) == {
        "organizer": (1, 1)  # the second is cut
    }


def test_a_search_with_one_other_word_or_of_another_pair_is_not_exact():
    text = text_of(FIRST)
    wrong = text.replace(" 18", " 19", 1)
    assert wrong != text
    said = own(FIRST, text) + " #2" + own(FIRST, wrong) + " #2" + own(SECOND, text) + " #2"
    assert counted(organizer(("decoded", said))) == {"organizer": (3, 1 / 3)}
    assert counted(organizer(("decoded", f" 2 10 7 20 = 11 :{text} #2"))) == {"organizer": (1, 0)}


def test_a_worker_is_exact_with_its_takeaways_and_counts_if_it_returned():
    whole = worker_text(TASK.search(PROBLEM, FIRST))
    forgot = f"{text_of(FIRST)}<RETURN> none</RETURN>"
    assert whole != forgot
    traces = [worker(FIRST, whole), worker(FIRST, forgot), worker(SECOND, whole), worker(FIRST, whole, end="stopped")]
    assert counted(*traces) == {"worker": (3, 1 / 3)}


def test_the_command_reads_an_evaluation_in_the_folder_of_a_run(tmp_path, capsys):
    folder = tmp_path / "eval" / "async"
    folder.mkdir(parents=True)
    assert main([str(folder)]) == 2 and "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(config_of(Sudoku()))
    episode = {"problem": PROBLEM.to_json(), "traces": [worker(FIRST, worker_text(TASK.search(PROBLEM, FIRST)))]}
    (folder / "episodes.jsonl").write_text(json.dumps(episode) + "\n")
    assert main([str(folder)]) == 2 and "not of Countdown" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(config_of(TASK))
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: worker 100.0 ± 0.0% of 1 searches exact\n"


@pytest.mark.parametrize("cut", [" + 11 ! 2", ""])
def test_what_a_budget_cuts_is_not_counted(cut):
    assert counted(organizer(("decoded", own(FIRST, cut)))) == {}

"""The command that has another model write demonstrations, by the real openai client against a model on loopback."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver
from fake_llm import KEY, CountdownWriter, FakeLLM, Reply, SumsWriter, is_second, refusal
from sums import CONFIG, Sums

from asyncthink_jax import synthesize
from asyncthink_jax.command import split_argv
from asyncthink_jax.data import demonstration_file
from asyncthink_jax.files import locked
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.storage.metrics import read_metrics
from asyncthink_jax.synthesis import asking, endpoint, questions
from asyncthink_jax.synthesis.judge import reader
from asyncthink_jax.tasks import TASKS, Countdown

pytest.importorskip("openai")

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}  # of other processes
PROBLEMS = CONFIG.task.size
EXPERIMENT = """
from asyncthink_jax.tasks import TASKS
from sums import CONFIG, Sums

TASKS["sums"] = Sums


def get_config():
    return CONFIG
"""


read_once = functools.cache(reader)  # a tokenizer takes half a second to train


@pytest.fixture
def llm(monkeypatch):
    with FakeLLM(SumsWriter()) as llm:
        monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(endpoint, "BACKOFF_S", 0.001)
        yield llm


@pytest.fixture
def command(llm, tmp_path, capsys, monkeypatch):
    """Runs the command in a folder: (exit code, output, error output). The key is nowhere in what is left."""
    monkeypatch.setitem(TASKS, "sums", Sums)
    monkeypatch.setattr(asking, "reader", read_once)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)

    def called(*arguments):
        fixed = ["synthesize", f"--config={tmp_path / 'experiment.py'}", f"--out={tmp_path / 'demos.jsonl'}"]
        others, overrides = split_argv([*fixed, "--training_problems=0", *map(str, arguments)])
        with flagsaver.flagsaver():
            code = synthesize.main(synthesize.FLAGS(others), overrides)
        printed = capsys.readouterr()
        left = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(KEY in text for text in (*left, *printed))
        return code, printed.out, printed.err

    return called


@pytest.fixture
def files(tmp_path):
    """Reads the files of the results: the demonstrations, and what was dropped."""
    return lambda: tuple((tmp_path / name).read_text() for name in ("demos.jsonl", "demos.dropped.jsonl"))


def llm_at(llm):
    """What names the endpoint, for another process."""
    return {"OPENAI_BASE_URL": llm.url, "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}


def asked_twice(requests):
    texts = [json.dumps(body) for body in requests]
    return len(texts) - len(set(texts))


# --- What it makes.


def test_the_file_holds_demonstrations_that_training_reads(command, llm, tmp_path):
    code, out, err = command()
    assert (code, err) == (0, "")
    scripts = demonstration_file.read(tmp_path / "demos.jsonl", Sums().from_json, Grammar(4, 6))
    assert [script.problem for script in scripts] == Sums().splits()["train"]
    assert len({len(script.workers) for script in scripts}) >= 3  # the plans differ
    assert len(llm.requests) == 2 * PROBLEMS
    assert "12 kept, 0 dropped, 0 failed, of 12 problems" in out


def test_the_second_question_follows_the_first_answer_and_a_plan_of_its_own_for_each_problem(command, llm):
    command()
    second = [body["messages"][-1]["content"] for body in llm.requests if is_second(body)]
    assert all("[fragments]\n1. " in question and "\nanswer" in question for question in second)
    assert len({question.partition("[sequence]")[2] for question in second}) > PROBLEMS / 2
    assert all(body["model"] == "gpt-4o" and body["max_completion_tokens"] == 4096 for body in llm.requests)


def test_a_rerun_asks_the_same_and_another_seed_other_plans(command, llm, tmp_path):
    command()
    first = sorted(map(json.dumps, llm.requests))
    llm.requests.clear()
    (tmp_path / "demos.answers.jsonl").unlink()
    command()
    assert sorted(map(json.dumps, llm.requests)) == first
    llm.requests.clear()
    command("--config.seed=1")
    assert len(llm.requests) > PROBLEMS / 2 and all(map(is_second, llm.requests))  # the fragments are known


def test_what_is_asked_and_what_it_took_is_said_before_and_after(command):
    _, out, _ = command("--llm=my-model", "--prices=10,100")
    lines = out.splitlines()
    assert lines[0] == "12 problems, two questions each, to my-model"
    assert lines[1].startswith("to ask: 24 questions, about ") and lines[1].endswith(" USD")
    # 24 answers of 100 tokens in and 10 out, as the endpoint counts them.
    assert "answers now: 24; 2,400 tokens in, 240 out, 0.05 USD\nanswers in all: 24; 2,400 tokens in" in out


def test_settings_of_the_model_are_sent(command, llm):
    command("--llm=other", "--llm_temperature=0.5", "--max_answer_tokens=99")
    for body in llm.requests:
        assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("other", 0.5, 99)


def test_so_many_problems_are_asked_about_at_the_same_time(command, llm):
    together = threading.Barrier(5)  # breaks, and with it the request, if not five come
    inside, most = 0, 0
    lock = threading.Lock()

    def enter():
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if len(llm.requests) <= 5:
            together.wait(30)
            time.sleep(0.05)  # in which a sixth would come
        with lock:
            inside -= 1

    llm.reply_to = lambda body: Reply(before=enter)
    assert command("--concurrency=5")[0] == 0
    assert most == 5


# --- What it leaves out.


def test_what_is_dropped_is_counted_by_reason_and_kept_with_it_in_a_file_of_its_own(command, llm, files):
    llm.reply_to = lambda body: Reply(content="[organizer]\n<ANSWER> 1") if is_second(body) else Reply()
    llm.replies = [Reply(content="[fragments]\nnone"), Reply(content="")]
    code, out, _ = command("--concurrency=1")
    assert code == 0 and files()[0] == ""
    assert "0 kept, 12 dropped, 0 failed" in out
    assert "no_answer 10 83.3% no <ANSWER>..</ANSWER>" in " ".join(out.split())
    dropped = [json.loads(line) for line in files()[1].splitlines()]
    assert [line["reason"] for line in dropped] == ["no_fragments", "refused", *["no_answer"] * 10]
    assert dropped[0]["fragments"] == "[fragments]\nnone" and dropped[0]["traces"] is None
    assert dropped[2]["traces"] == "[organizer]\n<ANSWER> 1"
    assert dropped[2]["detail"] == "organizer, at the end, <ANSWER> is never closed"


def test_an_answer_that_was_cut_off_is_dropped(command, llm):
    llm.replies = [Reply(finish="length")]
    assert "cut_off 1 8.3%" in " ".join(command()[1].split())


def test_wrong_answers_are_dropped_and_kept_later_without_asking_again(command, llm, files):
    class Wrong(SumsWriter):
        def result(self, query):
            return " 0"

    llm.writer = Wrong()
    assert "wrong_answer 12 100.0%" in " ".join(command()[1].split())
    llm.requests.clear()
    assert "12 kept" in command("--keep_wrong")[1]
    assert not llm.requests and len(files()[0].splitlines()) == PROBLEMS
    assert files()[1] == ""


def test_traces_along_another_sequence_are_dropped_unless_they_are_kept(command, llm):
    class Alone(SumsWriter):
        def traces(self, query, plan):
            return f"[organizer]\n I think<ANSWER>{self.result(query)}</ANSWER>"

    llm.writer = Alone()
    _, out, _ = command()
    assert "other_sequence" in out and "12 kept" not in out
    assert "12 kept" in command("--keep_unplanned")[1]


# --- What goes wrong on the way.


@pytest.mark.parametrize(
    "dressed",
    [
        lambda text: [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        lambda text: f"<think>\nI write [fragments] and\n[organizer]\nas told.\n</think>\n\n{text}",
        lambda text: f"As told:\n[fragments]\n</think>\n{text}",
        lambda text: f"Here it is:\n\n```\n{text}\n```\n\nTell me what you would like changed!",
    ],
    ids=["chunks", "think", "lone end of thinking", "fence"],
)
def test_an_answer_counts_however_a_model_dresses_it(command, llm, dressed):
    llm.reply_to = lambda body: Reply(content=dressed(llm.writer.answer(body["messages"][-1]["content"])))
    code, out, err = command()
    assert (code, err) == (0, "") and "12 kept, 0 dropped, 0 failed" in out


def test_reasoning_alone_is_counted_apart_and_asked_for_once(command, llm):
    llm.replies = [Reply(body=b'{"choices": [{"message": {"content": null, "reasoning_content": "hm"}}]}')]
    assert "only_reasoning 1 8.3% the model reasoned, and wrote no answer" in " ".join(command()[1].split())
    llm.requests.clear()
    assert "11 kept, 1 dropped" in command()[1] and not llm.requests


@pytest.mark.parametrize("reply", [refusal(402, "no credit left"), Reply(body=b'{"error": {"code": 402}}')])
def test_a_credit_that_is_used_up_ends_the_run_at_once_and_leaves_no_file(command, llm, tmp_path, reply):
    llm.reply_to = lambda body: reply
    code, _, err = command("--concurrency=2", "--training_problems=4")
    assert code == 2 and "has no quota or credit left for OPENAI_API_KEY: Error code: 402" in err
    assert len(llm.requests) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.py"]


def test_where_every_question_fails_the_files_are_left_as_they_are(command, llm, files, tmp_path):
    llm.reply_to = lambda body: refusal(400, "not today")
    code, out, _ = command("--training_problems=4")
    assert code == 1 and "0 kept, 0 dropped, 4 failed" in out and "not today" in out and "wrote" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.py"]
    llm.reply_to = lambda body: Reply()
    command()
    before = files()
    llm.reply_to = lambda body: refusal(400, "not today")
    assert command("--llm=other", "--training_problems=4")[0] == 1
    assert files() == before


def test_files_that_are_links_stay_links(command, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("demos.jsonl", "demos.dropped.jsonl", "demos.answers.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    assert command()[0] == 0
    assert all((tmp_path / name).is_symlink() for name in ("demos.jsonl", "demos.dropped.jsonl", "demos.answers.jsonl"))
    assert (tmp_path / "elsewhere" / "demos.jsonl").read_text().count("\n") == PROBLEMS


def test_a_link_to_nowhere_and_what_is_no_file_are_refused(command, llm, tmp_path):
    (tmp_path / "demos.jsonl").symlink_to(tmp_path / "nowhere" / "demos.jsonl")
    assert f"there is no folder {tmp_path / 'nowhere'}" in command()[2]
    (tmp_path / "demos.jsonl").unlink()
    os.mkfifo(tmp_path / "demos.answers.jsonl")
    try:
        code, _, err = command()
        assert code == 2 and "demos.answers.jsonl is no file that can be written" in err and not llm.requests
    finally:
        (tmp_path / "demos.answers.jsonl").unlink()


def test_results_that_cannot_be_written_are_told_with_where_the_answers_are(command, tmp_path):
    (tmp_path / ".demos.jsonl.new").mkdir()
    code, _, err = command()
    assert code == 2 and err.count("\n") == 1
    assert f"demos.jsonl can't be written: Is a directory; all answers are in {tmp_path / 'demos.answers.jsonl'}" in err
    (tmp_path / ".demos.jsonl.new").rmdir()
    assert "answers now: 0" in command()[1]


def test_a_bad_endpoint_changes_nothing_but_the_count(command, llm, files, tmp_path):
    command()
    well = files()
    (tmp_path / "demos.answers.jsonl").unlink()
    llm.replies = [
        *(refusal(429, headers={"Retry-After": "0.01"}), refusal(500), Reply(cut=True), Reply(body=b'{"choices"')),
        *(Reply(delay_s=6), refusal(429), Reply(body=b"sorry"), refusal(503)),
    ]
    code, out, _ = command("--timeout=3")
    assert code == 0 and files() == well
    assert int(re.search(r"answers now: 24, (\d+) asked again;", out)[1]) >= 8


def test_questions_without_an_answer_are_asked_again_by_the_next_command(command, llm, files):
    llm.replies = [refusal(400, "content policy")] * 3
    code, out, _ = command("--concurrency=1")
    assert code == 1
    assert "9 kept, 0 dropped, 3 failed, of 12 problems" in out and "content policy" in out
    llm.requests.clear()
    assert command()[0] == 0
    assert len(llm.requests) == 2 * 3 and len(files()[0].splitlines()) == PROBLEMS


def test_a_run_that_gets_nothing_but_errors_stops_early(command, llm):
    llm.reply_to = lambda body: refusal(500, "out of order")
    code, _, err = command("--tries=2", "--concurrency=2")
    assert code == 2
    assert err == (
        "error: 10 questions in a row failed, the last: no answer in 2 tries: Error code: 500 - out of order\n"
    )
    assert len(llm.requests) <= 2 * 11


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "refuses OPENAI_API_KEY: Error code: 401"),
        (refusal(404, "The model `gpt-4o` does not exist"), "doesn't know the model (--llm)"),
    ],
)
def test_an_endpoint_that_takes_no_questions_is_one_line_and_leaves_what_is_there(command, llm, files, reply, says):
    command("--llm=other")
    before = files()
    llm.reply_to = lambda body: reply
    code, _, err = command()
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert files() == before


def test_an_endpoint_that_turns_away_later_loses_nothing(command, llm, files):
    llm.reply_to = lambda body: refusal(401, "revoked") if len(llm.requests) > 10 else Reply()
    assert command("--concurrency=2")[0] == 2
    kept = len(files()[0].splitlines())
    assert kept >= 4
    llm.reply_to = lambda body: Reply()
    assert command()[0] == 0
    assert len(files()[0].splitlines()) == PROBLEMS
    assert asked_twice(llm.requests) <= 2  # those that were turned away


COUNTDOWN = """
from asyncthink_jax.config import Config, RLConfig, RolloutConfig, SFTConfig
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Countdown


def get_config():
    return Config(
        name="countdown",
        task=Countdown(max_number=12, validation_problems=4, test_problems=4),
        model=ModelConfig(vocab_size=0, layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp_width=64),
        rollout=RolloutConfig(slots=4, organizer_budget=300, context=400),
        sft=SFTConfig(steps=12, rows=4, row_length=400),
        rl=RLConfig(iterations=0),
    )
"""


@pytest.mark.slow
def test_countdown_is_trained_on_what_another_model_wrote(command, llm, tmp_path):
    (tmp_path / "countdown.py").write_text(COUNTDOWN)
    llm.writer = CountdownWriter(Countdown(max_number=12))
    code, out, _ = command(f"--config={tmp_path / 'countdown.py'}", "--training_problems=8")
    assert code == 0 and "8 kept, 0 dropped" in out
    arguments = ["--config", tmp_path / "countdown.py", "--workdir", tmp_path / "run", "--noevaluate"]
    arguments.append(f"--config.data.demonstrations={tmp_path / 'demos.jsonl'}")
    run = [sys.executable, "-m", "asyncthink_jax.train", *map(str, arguments)]
    subprocess.run(run, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 12 and losses[-1] < losses[0]


# --- Stopped, and gone on with.


def test_a_finished_run_says_so_at_once_and_needs_no_key(command, llm, files, monkeypatch):
    command()
    before = files()
    llm.requests.clear()
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out, err = command()
    assert (code, err) == (0, "") and files() == before and not llm.requests
    assert "answered already: 24 questions" in out and "to ask" not in out
    assert "12 kept, 0 dropped, 0 failed, of 12 problems" in out
    assert "answers now: 0; 0 tokens in, 0 out, 0.00 USD\nanswers in all: 24; 2,400 tokens in, 240 out" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_loses_nothing_finished_and_asks_nothing_twice(command, llm, files, number):
    stopped = []

    def stop():
        if len(llm.requests) == 9 and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), number)

    llm.reply_to = lambda body: Reply(before=stop)
    code, out, err = command("--concurrency=1")
    assert code == 130 and err == "interrupted; the same command goes on from here\n"
    assert "4 kept" in out and len(files()[0].splitlines()) == 4
    assert command()[0] == 0
    assert len(llm.requests) == 2 * PROBLEMS + 1  # the one that was in flight
    assert asked_twice(llm.requests) == 1
    assert len(files()[0].splitlines()) == PROBLEMS


def test_whatever_part_of_the_journal_a_kill_leaves_the_results_are_the_same(command, llm, files, tmp_path):
    command("--concurrency=1")
    whole, results = (tmp_path / "demos.answers.jsonl").read_bytes(), files()
    lines = whole.splitlines(keepends=True)
    for place in (0, 1, 200, len(lines[0]), len(lines[0]) + 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "demos.answers.jsonl").write_bytes(whole[:place])
        llm.requests.clear()
        assert command("--concurrency=1")[0] == 0
        assert files() == results
        left = (whole[:place] + b"\n").count(b"}\n")  # a record that only lacks its line break is whole
        assert len(llm.requests) == 2 * PROBLEMS - left
        assert (tmp_path / "demos.answers.jsonl").read_bytes() == whole


def test_a_rerun_that_is_stopped_before_it_has_caught_up_leaves_the_files_as_they_are(command, files, monkeypatch):
    command()
    before = files()
    score = Sums.score

    def stopped(self, problem, answer):
        os.kill(os.getpid(), signal.SIGINT)
        return score(self, problem, answer)

    monkeypatch.setattr(Sums, "score", stopped)
    assert command()[0] == 130
    assert files() == before


def test_two_commands_do_not_write_the_same_files(command, llm, tmp_path):
    (tmp_path / "demos.answers.jsonl").touch()
    with locked(tmp_path / "demos.answers.jsonl", wait=False):
        code, _, err = command()
    assert code == 2 and not llm.requests
    assert err == (
        f"error: --out {tmp_path / 'demos.jsonl'} is in use by another process; wait for it, or name another file\n"
    )


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(command, llm, files, tmp_path):
    arguments = ["--config", tmp_path / "experiment.py", "--out", tmp_path / "demos.jsonl", "--training_problems=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncthink_jax.synthesize", *map(str, arguments)],
        env=ENVIRONMENT | llm_at(llm),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    llm.reply_to = lambda body: Reply(before=process.kill if len(llm.requests) > 9 else None)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL and KEY not in printed
    asked = len(llm.requests)
    answered = (tmp_path / "demos.answers.jsonl").read_bytes().count(b"\n")
    assert 0 < answered < asked
    llm.reply_to = lambda body: Reply()
    assert command()[0] == 0
    assert len(llm.requests) - asked == 2 * PROBLEMS - answered
    assert len(files()[0].splitlines()) == PROBLEMS


# --- Before anything is asked.


def test_a_dry_run_shows_estimate_and_questions_and_asks_nothing(command, llm, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out, err = command("--dry_run")
    assert (code, err) == (0, "") and not llm.requests
    assert out.startswith("12 problems, two questions each, to gpt-4o\nto ask: 24 questions, about ")
    assert "at 2.5 USD a million tokens in and 10 out" in out
    problem = Sums().splits()["train"][0]
    assert out.count(f"[problem]\n{problem.query}") == 2 and "[sequence]\n" in out
    assert Sums().instructions in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment.py"]


def test_the_estimate_is_near_the_count_where_answers_are_as_long_as_the_examples(command, llm):
    """In characters, which a token has four of, and with the examples' own answers."""
    example = questions.load(questions.PACKAGED, Sums().instructions, Grammar(4, 6)).examples

    class Counting(SumsWriter):
        def answer(self, question):
            texts = [one.written if "[sequence]" in question else one.found for one in example]
            return texts[len(question) % len(texts)]

    llm.writer = Counting()
    _, out, _ = command()
    asked, tokens = re.search(r"to ask: (\d+) questions, about ([\d,]+) tokens in", out).groups()
    characters = sum(len(message["content"]) for body in llm.requests for message in body["messages"])
    assert int(asked) == len(llm.requests) == 24
    assert int(tokens.replace(",", "")) == pytest.approx(characters / 4, rel=0.05)


def test_an_unknown_models_price_is_not_made_up(command):
    _, out, _ = command("--llm=my-model", "--dry_run")
    assert "no price of my-model is known here; --prices=IN,OUT" in out and " USD\n" not in out.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config="], "--config is missing; see --help"),
        (["--config=nowhere.py"], "config file not found: nowhere.py"),
        (["--config.rl.tao=1"], "config has no field 'rl.tao'; did you mean 'rl.tau'?"),
        (["--out="], "--out is missing; see --help"),
        (["--out=demos.json"], "--out demos.json: the file's name must end in .jsonl"),
        (["--out=nowhere/demos.jsonl"], "--out nowhere/demos.jsonl: there is no folder nowhere"),
        (["--out=/proc/demos.jsonl"], "--out /proc/demos.jsonl: demos.answers.jsonl can't be written beside it: "),
        (["--training_problems=13"], "--training_problems 13: the training split has 12; 0 takes all of them"),
        (["--training_problems=-1"], "--training_problems is -1, but must be at least 0"),
        (["--concurrency=0"], "--concurrency is 0, but must be at least 1"),
        (["--tries=0"], "--tries is 0, but must be at least 1"),
        ([f"--out={'x' * 250}.jsonl"], f"--out {'x' * 250}.jsonl: File name too long"),
        (["--timeout=inf"], "--timeout is inf, but must be a number of seconds above 0"),
        (["--timeout=nan"], "--timeout is nan, but must be a number of seconds above 0"),
        (["--llm_temperature=nan"], "--llm_temperature is nan, but must be a number from 0"),
        (["--prices=-1,2"], "--prices '-1,2' is not two numbers"),
        (["--prices=nan,2"], "--prices 'nan,2' is not two numbers"),
        (["--llm=a\x1b[2J"], r"--llm 'a\x1b[2J' holds characters that no name has"),
        (["--llm=a\udcff"], r"--llm 'a\udcff' holds characters that no name has"),
        (["--timeout=0"], "--timeout is 0, but must be a number of seconds above 0"),
        (["--llm_temperature=-1"], "--llm_temperature is -1, but must be a number from 0"),
        (["--max_answer_tokens=0"], "--max_answer_tokens is 0, but must be at least 1"),
        (["--llm="], "--llm is empty"),
        (["--prices=2.5"], "--prices '2.5' is not two numbers like 2.5,10 (USD a million tokens)"),
        (["--prices=a,b"], "--prices 'a,b' is not two numbers"),
        (["--prompts=nowhere"], "--prompts nowhere is no folder"),
        (["--tokenizer=nowhere"], "nowhere does not exist"),
        (["demos.jsonl"], "unexpected argument 'demos.jsonl'; options start with --"),
    ],
)
def test_bad_input_is_one_line(command, llm, tmp_path, arguments, says):
    code, out, err = command(*arguments)
    assert code == 2 and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.py"]
    assert err.startswith(f"error: {says}") and err.count("\n") == 1
    assert not llm.requests


def test_without_a_key_nothing_is_asked(command, llm, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, err = command()
    assert code == 2 and err.startswith("error: OPENAI_API_KEY is not set; set it to a key for http://127.0.0.1:")
    assert not llm.requests

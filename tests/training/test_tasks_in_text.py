"""Tasks in free text, from files to a table, with a model that says nothing that makes sense."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from asyncthink_jax.config import (
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    RLConfig,
    RolloutConfig,
    SFTConfig,
    to_json,
)
from asyncthink_jax.data import pipeline
from asyncthink_jax.model.model_config import ModelConfig
from asyncthink_jax.tasks import Math, MMLUPro
from asyncthink_jax.tasks.task import Script
from asyncthink_jax.training import experiment

ROOT = Path(__file__).resolve().parents[2]
LONG = {"problem": "What is " + "1 + " * 700 + "1?", "answer": 701}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "tiny_qwen3"
    runpy.run_path(str(ROOT / "launch/colab/tiny_qwen3.py"))["make"](folder)
    return folder


@pytest.fixture
def files(tmp_path):
    sums = [{"problem": f"What is {n} + {n}?", "answer": f"{2 * n}"} for n in range(20)]
    choices = [
        {"question": f"What is {n}?", "options": ["a number", "a word"], "answer": "A", "category": category, "src": ""}
        for n, category in enumerate(["math", "law", "math"])
    ]
    return {
        "train": written(tmp_path / "train.jsonl", sums),
        "even": written(tmp_path / "even.jsonl", [{"question": "Is 2 even?", "answer": "yes"}]),
        "odd": written(tmp_path / "odd.jsonl", [{"Problem": f"Is {n} odd?", "Answer": 1.0} for n in (1, 3)]),
        "long": written(tmp_path / "long.jsonl", [LONG]),
        "choices": written(tmp_path / "choices.jsonl", choices),
    }


@pytest.fixture
def config(release, files):
    return Config(
        name="text",
        pretrained=str(release),
        task=Math(train=files["train"], test=(files["even"], files["odd"]), validation_problems=2),
        model=ModelConfig(vocab_size=0, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, mlp_width=48),
        rollout=RolloutConfig(
            slots=4,
            organizer_budget=12,
            worker_budget=6,
            context=1536,
            worker_context=512,
            feed_width=64,
            constrain=True,
        ),
        sft=SFTConfig(steps=0, optimizer="adamw"),
        rl=RLConfig(iterations=1, prompts=2, group_size=2, rows=16, row_length=1536, optimizer_steps=1),
        eval=EvalConfig(samples=2, temperatures=(1.0,), validate_every=1, validation_problems=2),
    )


def run_command(name, *flags):
    words = [sys.executable, "-m", f"asyncthink_jax.{name}", *flags]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_problems_come_out_of_files_with_the_prompts_of_the_task(config, tmp_path):
    built = experiment.build(config, tmp_path)
    assert {name: len(problems) for name, problems in built.splits.items()} == {"train": 18, "validation": 2, "test": 3}
    prompt = built.tokenizer.decode(built.prompt(built.splits["test"][0]))
    assert "problem of mathematics" in prompt and built.splits["test"][0].question in prompt
    assert experiment.build(config, tmp_path).splits == built.splits


def test_a_broken_line_is_refused_or_left_out_as_the_config_says(config, files, tmp_path):
    with open(files["train"], "a") as file:
        file.write('{"problem": "What?"}\n')
    with pytest.raises(ConfigError, match=r"train\.jsonl:21: none of the columns answer"):
        experiment.build(config, tmp_path)
    built = experiment.build(dataclasses.replace(config, data=DataConfig(skip_bad=True)), tmp_path)
    assert len(built.splits["train"]) == 18


def test_a_question_that_leaves_no_room_is_refused_before_anything_is_compiled(config, files, tmp_path):
    task = dataclasses.replace(config.task, test=(files["long"],))
    with pytest.raises(ConfigError, match=r"a prompt of split test has \d+ tokens, and rollout.context is 1536"):
        experiment.build(dataclasses.replace(config, task=task), tmp_path)


def test_workers_without_room_are_refused_before_anything_is_compiled(config, tmp_path):
    rollout = dataclasses.replace(config.rollout, worker_context=64)
    with pytest.raises(ConfigError, match=r"a worker's prompt has \d+ tokens .* and rollout.worker_context is 64, for"):
        experiment.build(dataclasses.replace(config, rollout=rollout), tmp_path)


def test_a_cold_start_without_demonstrations_is_refused_with_the_ways_out(config, tmp_path):
    config = dataclasses.replace(config, sft=dataclasses.replace(config.sft, steps=3))
    with pytest.raises(
        ConfigError, match=r"no program writes demonstrations of math.*data\.demonstrations.*sft\.steps=0"
    ):
        experiment.build(config, tmp_path).check_demonstrations(1536)


def test_a_demonstration_of_somebody_else_is_scored_by_the_grader(config, tmp_path):
    built = experiment.build(config, tmp_path)
    problem = next(problem for problem in built.splits["test"] if problem.source == "odd")
    pieces = ("<FORK-1>", "1 - 1?", "</FORK-1>", "<JOIN-1>", "<ANSWER>", r"so \boxed{\frac{2}{2}}", "</ANSWER>")
    script = Script(problem, pieces, workers={1: "none left <RETURN>0</RETURN>"}, returns={1: "0"})
    episode = pipeline.played(script, built.tokenizer, built.grammar, built.prompts)
    assert (episode.format_error, episode.answer) == (None, r"so \boxed{\frac{2}{2}}")
    assert config.task.score(problem, episode.answer) == {"accuracy": 1.0, "correct": 1, "answered": 1, "wrong": 0}


@pytest.mark.slow
def test_a_run_without_training_problems_is_refused(config, files, tmp_path):
    saved = tmp_path / "text.json"
    saved.write_text(
        to_json(dataclasses.replace(config, task=MMLUPro(validation=files["choices"], test=files["choices"])))
    )
    done = run_command("train", "--config", str(saved), "--workdir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "mmlu_pro has no training problems here: name some, or set rl.iterations=0" in done.stderr


def test_a_run_is_asked_for_another_task_with_the_prompts_of_that(config, files, tmp_path):
    before = experiment.build(config, tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    other = MMLUPro(validation=files["choices"], test=files["choices"])
    after = experiment.build(dataclasses.replace(config, task=other), tmp_path)
    assert "its letter alone" in after.prompts.organizer and after.splits["train"] == []
    assert experiment.build(config, tmp_path).prompts == before.prompts


def command(name, *flags):
    done = run_command(name, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_on_files_is_scored_by_test_set_and_over_samples(config, files, tmp_path):
    saved = tmp_path / "text.json"
    saved.write_text(to_json(config))
    run = tmp_path / "run"
    printed = command("train", "--config", str(saved), "--workdir", str(run))
    assert "avg@2" in printed and "even" in printed and "odd" in printed
    scores = json.loads((run / "results.json").read_text())["paradigms"]["async"]["after_rl"]
    assert scores["avg@2"] == scores["accuracy"] and scores["stderr"]["avg@2"] == scores["stderr"]["accuracy"]
    assert scores["n"] == 6 and {name: part["n"] for name, part in scores["groups"].items()} == {"even": 2, "odd": 4}
    other = ["task.name=mmlu_pro", f"task.validation={files['choices']}", f"task.test={files['choices']}"]
    printed = command("evaluate", "--workdir", str(run), "--samples", "2", *(f"--config.{one}" for one in other))
    assert "law" in printed and "math" in printed

"""The report of a run: what is on the page for what is in the folder, and what it says where there is nothing."""

import html.parser
import json
import subprocess
import sys

import pytest
from runs_on_disk import CONFIG, EPISODES, HOSTILE, LINES, RESULTS, fork_join, lines_of, parallel, scores, write_run

from asyncthink_jax.files import record_sums
from asyncthink_jax.report.run_files import ReportError, labels, merged_results, read_run
from asyncthink_jax.report.write import write_report

NO_NUMBERS = {"lines": None, "results": None}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and all(a.get(name) == value for name, value in wanted.items())]


def report(folder, **options):
    path = write_report(folder, **options)
    assert path.name == "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("runs") / "tiny")
    return folder, report(folder)


# ------------------------------------------------------------------------------------------------------ what is there


def test_the_page_has_results_training_episodes_and_config(finished):
    _, page = finished
    assert [a["id"] for a in page.all("section")] == ["results", "training", "episodes", "config"]
    assert len(page.all("figure")) == 3 and len(page.all("article")) == 4


def test_the_page_says_on_what_and_when_the_numbers_were_made(finished):
    for fact in ("2026-01-02", "1 x TPU v5e", "commit 0123456789", "sft 1:01", "seed 3", "pool of 3 agents"):
        assert fact in finished[1].text


def test_the_page_has_the_table_and_the_config(finished):
    assert "64.0 ± 2.0" in finished[1].text
    assert "sft.steps 40" in finished[1].text


def test_every_figure_is_a_file_too(finished):
    names = ["accuracy_against_path", "at_least", "episode", "episode_concurrent", "episode_malformed", "episode_wrong"]
    found = sorted(path.name for path in (finished[0] / "figures").iterdir())
    assert found == [f"{name}.png" for name in [*names, "learning_curves"]]


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_script(finished):
    page = finished[1]
    links = [a[name] for _, a in page.tags for name in ("href", "src", "data", "action", "srcset") if a.get(name)]
    assert links and all(link.startswith("#") for link in links)
    assert not page.all("script") and not [name for _, a in page.tags for name in a if name.startswith("on")]
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")
    assert "url(http" not in (finished[0] / "report.html").read_text() and "@import" not in page.text


def test_every_link_of_the_page_leads_somewhere_and_no_id_is_there_twice(finished):
    ids = [a["id"] for _, a in finished[1].tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in finished[1].all("a")} <= set(ids)


def test_the_whole_text_of_every_lane_is_on_the_page(tmp_path):
    page = report(write_run(tmp_path / "run", **NO_NUMBERS, episodes={"async": [fork_join(text="word " * 2000)]}))
    assert page.text.count("word") >= 4 * 2000


# ------------------------------------------------------------------------------------------------- what is not there


def test_a_run_that_is_still_going_says_how_far_it_is(tmp_path):
    page = report(write_run(tmp_path / "run", results=None, episodes={}))
    assert "RL iteration 23 of 30" in page.text and "There are no results yet." in page.text
    assert len(page.all("figure")) == 1 and not page.all("article")


def test_a_run_in_its_cold_start_has_a_report(tmp_path):
    page = report(write_run(tmp_path / "run", lines=LINES[:5], results=None, episodes={}))
    assert "cold start step 5 of 40" in page.text


def test_a_run_without_reinforcement_learning_has_a_report(tmp_path):
    results = RESULTS | {"paradigms": {"oracle": {"after_sft": scores(0.8, 200)}}}
    page = report(write_run(tmp_path / "run", lines=LINES[:40], results=results))
    assert "80.0" in page.text and len(page.all("figure")) == 3


def test_a_run_of_independent_traces_has_a_lane_for_each(tmp_path):
    page = report(write_run(tmp_path / "run", **NO_NUMBERS, episodes={"parallel": [parallel(), parallel(0.5)]}))
    names = [f"episode1-{kind}-{n}" for kind in ("typical", "wrong") for n in range(3)]
    assert [a["id"] for a in page.all("div") if a.get("id")] == names
    assert {a["href"] for a in page.all("a")} >= {f"#{name}" for name in names}
    assert "trace 3" in page.text


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    folder = write_run(tmp_path / "run", results=None, episodes={"async": EPISODES[:1]})
    for torn in (b'{"stage": "rl", "st', b'{"stage": "\xc3', b'{"stage": "rl\n', b"\0" * 100):
        (folder / "metrics.jsonl").write_bytes(lines_of(LINES).encode() + torn)
        assert read_run(str(folder)).lines == LINES
    assert len(report(folder).all("article")) == 1


@pytest.mark.parametrize("what", ["config", "lines", "results", "episodes"])
def test_each_file_alone_makes_a_report(tmp_path, what):
    files = {"config": None, "lines": None, "results": None, "episodes": {}}
    alone = {"config": CONFIG, "lines": LINES, "results": RESULTS, "episodes": {"async": EPISODES[:1]}}
    assert report(write_run(tmp_path / "run", **{**files, what: alone[what]})).all("section")


def test_a_score_that_is_not_known_is_not_shown(tmp_path):
    results = RESULTS | {"paradigms": {"async": {"after_sft": scores(0.3, 180, reward=None) | {"stderr": {}}}}}
    assert "30.0" in report(write_run(tmp_path / "run", lines=None, results=results, episodes={})).text


@pytest.mark.parametrize(
    ("config", "lines", "had"),
    [
        (CONFIG, LINES, True),
        (CONFIG, LINES[40:], True),  # taken from another run
        (CONFIG | {"sft": {"steps": 0}}, LINES[40:], False),
        (None, LINES, True),
        (None, LINES[40:], False),
    ],
)
def test_a_run_without_a_cold_start_is_told_by_its_config(tmp_path, config, lines, had):
    run = read_run(str(write_run(tmp_path / "run", config=config, lines=lines, results=None, episodes={})))
    assert run.had_cold_start == had


# ------------------------------------------------------------------------------------------------------- several runs


def test_runs_are_compared_on_one_page(tmp_path):
    run = write_run(tmp_path / "run", episodes={})
    rows = {"sequential": {"after_sft": scores(0.4, 300)}, "async": {"after_sft": scores(0.11, 99)}}
    config = CONFIG | {"name": "baseline", "seed": 9}
    other = write_run(tmp_path / "other", config=config, results=RESULTS | {"paradigms": rows})
    page = report(run, compare=[other], out=tmp_path / "out")
    for shown in ("sequential", "async, baseline", "compared with baseline", "What differs", "seed 3 9"):
        assert shown in page.text
    assert not (run / "report.html").exists() and (tmp_path / "out" / "figures" / "at_least.png").exists()


def test_runs_of_one_config_are_told_apart_by_their_folders(tmp_path):
    runs = [read_run(str(write_run(tmp_path / name, episodes={}))) for name in ("one", "two", "a/two")]
    assert labels(runs[:2]) == ["one", "two"]
    assert labels(runs) == [str(tmp_path / name) for name in ("one", "two", "a/two")]
    assert sorted(merged_results(runs[:2])["paradigms"]) == ["async", "async, two", "parallel", "parallel, two"]


def test_what_evaluate_scored_has_a_table_of_its_own_and_comes_last(tmp_path):
    evaluations = {"a_best_validation_t1": EPISODES[:1], "async": EPISODES[:1]}
    folder = write_run(tmp_path / "run", **NO_NUMBERS, episodes=evaluations)
    (folder / "eval/a_best_validation_t1/scores.json").write_text(json.dumps(scores(0.123, 150) | {"n": 1}))
    page = report(folder)
    assert "12.3" in page.text and list(read_run(str(folder)).episodes) == ["async", "a_best_validation_t1"]


# ---------------------------------------------------------------------------------------------------------- bad input


def run_command(*arguments):
    command = [sys.executable, "-m", "asyncthink_jax.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_evaluation_that_has_lost_episodes_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", **NO_NUMBERS, episodes={"mine": EPISODES[:2]})
    (folder / "eval/mine/scores.json").write_text(json.dumps(scores(0.5, 3) | {"n": 3}))
    with pytest.raises(ReportError, match=r"has 2 episodes, and scores\.json 3; run `evaluate` again"):
        read_run(str(folder))


def test_bad_flags_and_empty_folders_are_refused_with_one_line(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen3"}')
    for arguments, told in (
        (["--workdir", empty], f"{empty} holds no run"),
        (["--workdir", model], f"{model} holds no run, but a model of others"),
        ([], "--workdir is missing"),
        (["--workdir", empty, "more"], "unexpected argument 'more'"),
        (["--workdir", "gs://bucket/run"], "--out is missing"),
    ):
        done = run_command(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"error: {told}") and done.stderr.count("\n") == 1
    assert list(empty.iterdir()) == []


def test_the_command_takes_the_folders_that_a_shell_makes_of_a_pattern(tmp_path):
    runs = [write_run(tmp_path / name, episodes={}, lines=None) for name in ("one", "two", "three")]
    done = run_command("--workdir", runs[0], "--compare", runs[1], runs[2], "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'out' / 'report.html'}\n"
    assert "async, three" in (tmp_path / "out" / "report.html").read_text()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ReportError, match="is no folder; name that of a run"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.jsonl", '{"stage": "rl", "step": 1}\n{"stage": \n{}\n', r"metrics\.jsonl line 2 is no JSON"),
        ("metrics.jsonl", "[" * 100_000 + "\n{}\n", r"metrics\.jsonl line 1 is no JSON"),
        ("metrics.jsonl", '{"stage": "rl", "step": 1, "reward": "high"}\n', r"metrics\.jsonl line 1: reward is 'high'"),
        ("metrics.jsonl", '{"stage": "rl", "step": 1e999}\n', r"metrics\.jsonl line 1: step is inf"),
        (
            "metrics.jsonl",
            f'{{"stage": "rl", "step": 1, "loss": 1{"0" * 400}}}\n',
            r"metrics\.jsonl line 1: loss is 1000",
        ),
        ("metrics.jsonl", '{"stage": "rl"}\n', r"metrics\.jsonl line 1 has no step"),
        ("metrics.jsonl", "[1]\n", r"metrics\.jsonl line 1 has no stage and no step"),
        ("config.json", "{", r"config\.json is no JSON"),
        ("config.json", "", r"config\.json is empty; put it back"),
        ("config.json", '{"sft": 3}', r"config\.json: sft is not an object"),
        ("results.json", "[]", r"results\.json holds no JSON object"),
        ("results.json", '{"a": ' * 100_000, r"results\.json is no JSON"),
        ("results.json", '{"paradigms": []}', r"results\.json: paradigms is not an object; remove it, and `train`"),
        (
            "results.json",
            '{"paradigms": {"async": {"after_rl": {}}}}',
            r"paradigms\.async\.after_rl\.n is not a number",
        ),
        ("eval/async/episodes.jsonl", lines_of(EPISODES)[:-9], r"episodes\.jsonl line \d+ is no JSON"),
        ("eval/async/episodes.jsonl", "{}\n", r"episodes\.jsonl line 1 has no agents"),
        (
            "eval/async/episodes.jsonl",
            lines_of([EPISODES[0], EPISODES[1] | {"traces": [{"role": "organizer"}]}]),
            r"eval, async, line 2: not an episode",
        ),
    ],
)
def test_a_broken_file_is_told_with_its_name_and_line(tmp_path, name, text, told):
    folder = write_run(tmp_path / "run", results=None)
    (folder / name).write_text(text)
    with pytest.raises(ReportError, match=told) as error:
        write_report(folder)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------- hostile text


def test_hostile_text_of_every_file_is_text_on_the_page(tmp_path):
    good = fork_join(answer="1 + " * 60)
    plain = report(write_run(tmp_path / "plain", episodes={"async": [good]}, config=hostile_config("x")))
    bad = fork_join(text=HOSTILE, prompt=HOSTILE, answer=HOSTILE) | {"problem": {HOSTILE: HOSTILE}}
    stages = {"after_sft": scores(0.3, 180), "after_rl": scores(0.5, 170)}
    results = RESULTS | {"hardware": HOSTILE, "paradigms": {HOSTILE: stages, "parallel": {"after_sft": scores(0.2, 9)}}}
    folder = write_run(tmp_path / "hostile", episodes={"async": [bad]}, config=hostile_config(HOSTILE), results=results)
    page = report(folder)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert {name for _, a in page.tags for name in a} == {name for _, a in plain.tags for name in a}
    assert page.text.count("document.title='owned'") > 20
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not {"\x00", "\x07", "\x1b", "\u202e", "\u202c", "\u2066", "\ufeff"} & set(text)


def hostile_config(text):
    return CONFIG | {"name": text, "task": {"name": text}, "pretrained": text}


def test_hostile_fields_of_an_episode_are_text_too(tmp_path):
    bad = fork_join(error=HOSTILE)
    bad["traces"][2]["end"] = HOSTILE
    name = HOSTILE.replace("/", "")[:60]
    page = report(write_run(tmp_path / "run", **NO_NUMBERS, episodes={name: [bad], "other": EPISODES[:1]}))
    assert not page.all("script") and not page.all("img")


def test_a_config_that_is_not_what_the_run_began_with_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"name": "one", "sft": {}, "rl": {}}')
    record_sums(tmp_path, ["config.json"])
    assert read_run(str(tmp_path)).name == "one"
    (tmp_path / "config.json").write_text('{"name": "two", "sft": {}, "rl": {}}')
    with pytest.raises(ReportError, match="is not what it was when the run began"):
        read_run(str(tmp_path))

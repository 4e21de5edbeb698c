"""The benchmarks run, write what they promise, and are all run by `make bench`. No time is asserted anywhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import scripts, table

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"
KEYS = ["name", "ours", "peers", "ratios", "unit", "runs", "hardware", "date", "commit"]
QUESTIONS = sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef main()" in path.read_text(encoding="utf-8"))


def check(result):
    assert set(result) >= set(KEYS)
    assert set(result["ratios"]) == set(result["peers"])
    assert result["ours"] > 0 and all(value > 0 for value in result["peers"].values())


def test_make_bench_runs_every_benchmark():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = re.findall(r"^(?:TPU_)?BENCHMARKS := (.*)$", makefile, re.MULTILINE)
    assert sorted(" ".join(lists).split()) == QUESTIONS
    assert re.search(r"^bench: .*\bbench-tpu\b", makefile, re.MULTILINE)


def test_the_table_has_a_line_for_each_committed_result_and_peer():
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(table.RESULTS.glob("*.json"))]
    for result in results:
        check(result)
        assert re.sub(r"(_gpu)?(_0\.6b)?$", "", result["name"]) in QUESTIONS
    lines = table.markdown().splitlines()[2:]
    expected = [result["name"] for result in results for _ in result["peers"] or [None]]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == expected


def test_a_ratio_says_how_many_times_faster_ours_is(tmp_path):
    result = {
        **{"name": "plain", "ours": 6000.0, "peers": {"peer x": 2000.0}, "ratios": {"peer x": 3.0}, "unit": "tokens/s"},
        **{"runs": 1, "hardware": "2 CPU cores", "date": "2026-01-01", "commit": "0123456789ab", "note": ""},
        "detail": {"versions": {"peer": "1.0"}},
    }
    (tmp_path / "plain.json").write_text(json.dumps(result), encoding="utf-8")
    line = table.markdown(tmp_path).splitlines()[2]
    assert line == "| plain | 6,000 | tokens/s | peer x 1.0 | 2,000 | 3.00x | 2 CPU cores | 2026-01-01 | `0123456789` |"


def test_from_outside_every_trace_is_written_once_and_no_worker_before_its_fork():
    episodes = scripts.episodes(3)
    rounds = scripts.from_outside(episodes)
    written = sum(writes for calls in rounds for _, writes in calls)
    workers = sum(len(one.worker(i)) for one in episodes for i in range(1, len(one.searches) + 1))
    assert written == workers + sum(len(one.organizer) for one in episodes)
    assert [len(calls) for calls in rounds[:2]] == [3, 3 * (scripts.AGENTS - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_smoke_run_writes_its_result(name, tmp_path):
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", "--quick", "--results", str(tmp_path)]
    environment = dict(os.environ)
    if name == "v5e_bytes":
        if not (ROOT / ".libtpu" / "installed").exists():
            pytest.skip("no libtpu; `make test-all` installs it")
        environment["PYTHONPATH"] = str(ROOT / ".libtpu")
        environment.pop("XLA_FLAGS", None)  # what is counted is the optimised program
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=1800)
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    check(result)
    assert result["name"] == name
    assert f"| {name} |" in table.markdown(tmp_path)

"""Folders of runs for the tests of reports: the files that a run leaves, with numbers and texts made up here."""

import json

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=\"document.title='owned'\"></svg>' onmouseover=\"document.title='owned'\" x='"
    " &lt;script&gt; \x00\x07\x1b[31m\u202edesrever\u202c\u2066\ufeff \ud800 ]]> --> $\\frac{$ {{7*7}}"
)


def trace(role, fork_id, spans, events, start, end, how, prompt="solve 5 6 8 10 = 3 :"):
    return {
        "role": role,
        "fork_id": fork_id,
        "prompt": prompt,
        "spans": spans,
        "decoded_tokens": end - start,
        "events": [{"action": action, "id": worker, "at": at} for action, worker, at in events],
        "start_step": start,
        "end_step": end,
        "end": how,
    }


def fork_join(*, text="search", accuracy=1.0, error=None, answer=" 5 + 6 - 8", prompt="solve 5 6 8 10 = 3 :", wait=20):
    """The organizer forks at steps 4 and 6, joins worker 1 late, and waits for worker 2 until step 6 + `wait`."""
    decoded = f"<FORK-1>{text}</FORK-1><FORK-2>two</FORK-2> own work <JOIN-1>"
    spans = [["decoded", decoded], ["joined", f"{text}</JOIN-1>"], ["decoded", "<JOIN-2>"], ["joined", "none</JOIN-2>"]]
    events = [("fork", 1, 4), ("fork", 2, 6), ("join", 1, 16), ("join", 2, 18)]
    end = 6 + wait + 5
    organizer = trace("organizer", None, spans, events, 0, end, "format_error" if error else "answer", prompt)
    return {
        "task": "countdown_tiny",
        "problem": {"numbers": [5, 6, 8, 10], "target": 3, "n_solutions": 4},
        "paradigm": "async",
        "agents": 3,
        "seed": 0,
        "traces": [
            organizer | {"decoded_tokens": 23},
            trace("worker", 1, [["decoded", f"{text}<RETURN>{text}</RETURN>"]], [], 4, 13, "return", "work one"),
            trace("worker", 2, [["decoded", "try<RETURN>none</RETURN>"]], [], 6, 6 + wait, "return", "work two"),
        ],
        "answer": answer,
        "score": {"accuracy": accuracy, "correct": round(4 * accuracy), "answered": 4, "wrong": 0},
        "format_error": error,
        "critical_path": end,
        "concurrency": 0.5,
        "reward": accuracy,
    }


def parallel(accuracy=1.0):
    """Three independent traces, the second of which is the longest."""
    lengths = (5, 9, 7)
    made = [trace("organizer", None, [["decoded", f" {n}<ANSWER> 1"]], [], 0, n, "answer") for n in lengths]
    return fork_join(accuracy=accuracy) | {"paradigm": "parallel", "traces": made, "critical_path": 9}


def scores(all_correct, path, n=400, **more):
    at_least = {"1": 0.9, "2": 0.8, "3": 0.7, "4": all_correct}
    known = {"n": n, "all_correct": all_correct, "at_least": at_least, "critical_path": path, "concurrency": 0.5}
    return known | {"format_error": 0.01, "reward": 0.5, "stderr": {"all_correct": 0.02}, "split": "test"} | more


CONFIG = {
    "name": "tiny",
    "seed": 3,
    "paradigm": "async",
    "task": {"name": "countdown_tiny"},
    "pool": {"agents": 3},
    "model": {"layers": 2, "width": 64},
    "sft": {"steps": 40},
    "rl": {"iterations": 30},
}
RESULTS = {
    "commit": "0123456789abcdef",
    "date": "2026-01-02",
    "hardware": "1 x TPU v5e",
    "wall_clock_s": {"sft": 61.0, "rl": 30.0},
    "paradigms": {
        "async": {"after_sft": scores(0.3, 180), "after_rl": scores(0.64, 160), "after_rl_greedy": scores(0.9, 170)},
        "parallel": {"after_sft": scores(0.2, 210), "after_rl": None},
    },
}
LINES = [
    *[{"stage": "sft", "step": step, "loss": 1 / step} for step in range(1, 41)],
    *[{"stage": "rl", "step": step, "all_correct": step / 40, "critical_path": 200 - step} for step in range(1, 24)],
    {"stage": "validation", "step": 10, "all_correct": 0.5, "critical_path": 190},
]
EPISODES = [
    fork_join(wait=20),
    fork_join(wait=22) | {"concurrency": 0.7},
    fork_join(accuracy=0.5),
    fork_join(accuracy=0.0, error="no_answer", answer=None),
]


def write_run(folder, *, config=CONFIG, lines=LINES, results=RESULTS, episodes=None):
    """Writes what is given; `episodes`: by evaluation, default one named async."""
    folder.mkdir(parents=True)
    for name, one in (("config.json", config), ("results.json", results)):
        if one is not None:
            (folder / name).write_text(json.dumps(one))
    if lines is not None:
        (folder / "metrics.jsonl").write_text(lines_of(lines))
    for name, some in ({"async": EPISODES} if episodes is None else episodes).items():
        (folder / "eval" / name).mkdir(parents=True)
        (folder / "eval" / name / "episodes.jsonl").write_text(lines_of(some))
    return folder


def lines_of(objects):
    return "".join(json.dumps(one) + "\n" for one in objects)

"""Text of others on a terminal: what is escaped in it, and that every line of ours goes through it."""

import ast
from pathlib import Path

import pytest
from rich.console import Console

from asyncthink_jax import shown
from asyncthink_jax.shown import complain, harmless, harmless_lines
from asyncthink_jax.storage.metrics import Progress, print_results

PACKAGE = Path(shown.__file__).parent


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("tensor \x1b[2J\x1b]0;title\x07", r"tensor \x1b[2J\x1b]0;title\x07"),
        ("c1 \x9b31m", r"c1 \x9b31m"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("half \ud800", r"half \ud800"),
        ("\x00\x08\x7f\U000e0041", r"\x00\x08\x7f\U000e0041"),
        ("one\n  two\r\nthree\u2028four\x85five\tsix", "one two three four five six"),
        ("  Größe 数 👩\u200d💻 \u00a0\\d", "Größe 数 👩\u200d💻 \u00a0\\d"),
        (ValueError("no \x1b"), r"no \x1b"),
    ],
)
def test_what_moves_hides_or_reorders_is_escaped(raw, expected):
    assert harmless(raw) == expected


def test_a_line_has_an_end_and_keeps_what_stands_there():
    line = harmless("file: " + "\x1b" * 10_000_000 + " try another")
    assert len(line) == shown.MOST and line.startswith("file: ") and line.endswith("try another")
    assert harmless("x" * shown.MOST) == "x" * shown.MOST


def test_lines_stay_lines_where_they_are_asked_to():
    assert harmless_lines("a\x1b\n\nb\r\n" + "c" * 5000) == "a\\x1b\n\nb\n" + "c" * 5000


def test_a_complaint_is_one_harmless_line_and_a_full_disk_no_error(capsys, monkeypatch):
    complain("error: \x1b[31m\nred")
    assert capsys.readouterr().err == "error: \\x1b[31m red\n"
    monkeypatch.setattr("sys.stderr", None)
    complain("nobody reads it")
    if Path("/dev/full").exists():
        full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it fails
        monkeypatch.setattr("sys.stderr", full)
        complain("nothing takes it")
        with pytest.raises(OSError):
            full.close()


def test_progress_and_results_show_names_as_they_are(capsys):
    with Progress({"sft": 2}, quiet=False) as progress:
        progress.say("lost \x1b[2J")
    scores = {"n": 1, "at_least": {"1": 0.5}, "all_correct": 0.5, "wrong": 0.5, "format_error": 0.0}
    scores |= {"critical_path": 1.0, "concurrency": 0.5}
    console = Console()
    print_results({"paradigms": {"async": {"after_rl": scores | {"groups": {"[/b] \x1b[31m": scores}}}}}, console)
    shown = capsys.readouterr().out
    assert r"lost \x1b[2J" in shown and r"[/b] \x1b[31m" in shown and "\x1b[2J" not in shown


def test_no_file_writes_to_stderr_but_by_that_function():
    """A constant of our own may, as an input's prompt sign."""
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and any(
                keyword.arg == "file" and ast.unparse(keyword.value) == "sys.stderr" for keyword in call.keywords
            ):
                assert path.name == "shown.py" or all(isinstance(word, ast.Constant) for word in call.args), path

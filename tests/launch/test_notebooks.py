"""The notebooks: committed as they ran, true to the commands that they call, and run again from first cell to last."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from asyncthink_jax import config
from asyncthink_jax.command import split_argv

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "colab"
EXECUTE = FOLDER / "execute.py"
DEMO, QWEN3 = "asyncthink_in_10_minutes.ipynb", "qwen3_on_tpu.ipynb"

each_notebook = pytest.mark.parametrize("name", [DEMO, QWEN3])


def cells_of(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def code_of(name: str) -> list[nbformat.NotebookNode]:
    return cells_of(FOLDER / name, "code")


def told_in(name: str) -> str:
    """What the cells between the code say."""
    return "\n\n".join(cell.source for cell in cells_of(FOLDER / name, "markdown"))


def shows(cell: nbformat.NotebookNode) -> bool:
    """Whether the cell calls something that puts an output below it, outside of what it only defines."""
    found, nodes = set(), list(ast.parse(cell.source).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
        nodes += ast.iter_child_nodes(node)
    return bool(found & {"print", "show", "display", "run", "write_out"})


def texts_of(cell: nbformat.NotebookNode) -> str:
    """The outputs of a cell, pictures aside, as one text."""
    texts = []
    for output in cell.outputs:
        texts.append(output.get("text", ""))
        texts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


def scores_in(cell: nbformat.NotebookNode) -> dict[tuple[str, str], dict[str, float]]:
    """The rows of a table of results: (stage, temperature) -> column -> value without its error."""
    lines = [
        [field.strip() for field in line.strip("|").split("|")] for line in texts_of(cell).splitlines() if "|" in line
    ]
    header, _, *rows = lines
    return {
        (row[1], row[2]): {
            title: float(value.split(" ± ")[0]) for title, value in zip(header[3:], row[3:], strict=True)
        }
        for row in rows
    }


def assert_it_learned(cells: list[nbformat.NotebookNode]) -> None:
    (table,) = [cell for cell in cells if "result_rows(results)" in cell.source]
    scores = scores_in(table)
    assert scores["SFT", "0.6"]["format errors"] < 25  # the cold start speaks the protocol
    assert scores["SFT + RL", "0.6"]["reward"] > scores["SFT", "0.6"]["reward"]
    assert scores["SFT + RL, greedy", "0"]["reward"] > scores["SFT, greedy", "0"]["reward"]
    assert scores["SFT + RL, greedy", "0"]["critical path"] < scores["SFT, greedy", "0"]["critical path"]


def run(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)


# -------------------------------------------------------------------------------------------------------- as committed


def test_there_are_two_notebooks():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {DEMO, QWEN3}


@each_notebook
def test_every_cell_was_run_in_order(name):
    counts = [cell.execution_count for cell in code_of(name)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_every_cell_that_shows_something_has_its_output(name):
    cells = code_of(name)
    assert sum(map(shows, cells)) > len(cells) / 2
    for cell in cells:
        assert bool(cell.outputs) == shows(cell), cell.source


@each_notebook
def test_no_output_is_an_error_or_a_warning(name):
    for cell in code_of(name):
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data"), cell.source
            assert output.get("name", "stdout") == "stdout", output.text


@each_notebook
def test_no_cell_is_hidden(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in notebook.cells:
        assert not cell.metadata  # hidden, collapsed, folded into a form: all of it stands there
        assert not re.search(r"^#\s*@|^%%|^\s*[%!]", cell.source, re.MULTILINE), cell.source
        assert cell.source.strip()
        assert not cell.get("outputs") or "scrolled" not in cell.metadata


@each_notebook
def test_outputs_name_no_machine(name):
    for cell in code_of(name):
        text = texts_of(cell)
        assert not re.search(r"(?<![\w.<])/[A-Za-z]\w*/\w", text), text
        assert not re.search(r"://|localhost|\b\d+\.\d+\.\d+\.\d+\b", text), text


@each_notebook
def test_outputs_are_small(name):
    assert (FOLDER / name).stat().st_size < 1_000_000
    for cell in code_of(name):
        assert texts_of(cell).count("\n") < 60, cell.source


@each_notebook
def test_code_cells_are_python(name):
    for cell in code_of(name):
        compile(cell.source, name, "exec")


@each_notebook
def test_every_flag_and_override_in_a_cell_exists(name):
    strings = [
        node.value
        for cell in code_of(name)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    commands = {word.removeprefix("asyncthink_jax.") for word in strings if re.fullmatch(r"asyncthink_jax\.\w+", word)}
    assert commands >= {"train", "sample"}
    known: set[str] = set()
    for command in commands:
        source = (ROOT / "asyncthink_jax" / f"{command}.py").read_text(encoding="utf-8")
        for kind, flag in re.findall(r'flags\.DEFINE_(\w+)\(\s*"(\w+)"', source):
            known |= {f"--{flag}", f"--no{flag}"} if kind == "bool" else {f"--{flag}"}
    others, overrides = split_argv([word for word in strings if word.startswith("--")])
    assert len(others) > 5 and len(overrides) > 1
    ours = [word for word in others if word not in ("--quiet", "--depth=1")]  # of git and pip
    assert set(ours) <= known
    config.load(ROOT / "experiments" / "countdown_tiny.py", overrides)


@each_notebook
def test_every_path_and_setting_in_the_text_exists(name):
    text = told_in(name)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert "://" in link or (FOLDER / link).exists(), link
    for path in re.findall(r"`([\w/]+\.(?:py|md|ipynb))`", text):
        assert (ROOT / path).exists(), path
    for override in re.findall(r"--config\.([\w.]+=[\w.]+)", text):
        config.load(ROOT / "experiments" / "countdown_tiny.py", [override])
    for target in re.findall(r"`make ([a-z-]+)`", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target


def test_the_scores_of_the_full_demo_are_those_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = {
        "after the cold start": r"^\| async, after the cold start \| 0.6",
        "after RL": r"^\| \*\*async, after RL\*\* \| 0.6",
        "one agent, a model that was trained for that, after RL": r"^\| sequential \(c = 1\), after RL \| 0.6",
    }
    for title, start in rows.items():
        told = re.search(rf"^\| {title} \| (.*) \|$", told_in(DEMO), re.MULTILINE)
        there = re.search(rf"{start}.*$", results, re.MULTILINE)
        cells = [cell.split(" ± ")[0].strip() for cell in there[0].strip("|").split("|")]
        assert [cell.strip() for cell in told[1].split("|")] == [cells[3], cells[8], cells[9]]


def test_the_committed_demo_has_learned():
    assert_it_learned(code_of(DEMO))


# ------------------------------------------------------------------------------------------------------------ executed


def notebook_of(path: Path, *sources: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


def test_executing_stores_outputs_only_where_it_is_asked_to(tmp_path):
    path = notebook_of(tmp_path / "one.ipynb", "import os\nn = 6", "print(n * 7, os.environ['GIVEN'])\nprint('end')")
    before = path.read_bytes()
    assert run(EXECUTE, path, cwd=tmp_path, GIVEN="given").returncode == 0
    assert path.read_bytes() == before
    assert run(EXECUTE, path, "--write", cwd=tmp_path, GIVEN="given").returncode == 0
    first, second = cells_of(path, "code")
    assert not first.outputs and [output.text for output in second.outputs] == ["42 given\nend\n"]
    assert (first.execution_count, second.execution_count) == (1, 2)


@pytest.mark.parametrize("failing", ["raise ValueError('too small')", "raise SystemExit('too small')"])
def test_a_cell_that_fails_fails_the_command(tmp_path, failing):
    path = notebook_of(tmp_path / "one.ipynb", "n = 6", failing, "print('not reached')")
    before = path.read_bytes()
    done = run(EXECUTE, path, "--write", cwd=tmp_path)
    assert done.returncode == 1
    assert "one.ipynb" in done.stderr and "too small" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, "no notebook", "{}"])
def test_what_is_no_notebook_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "one.ipynb"
    if content is not None:
        path.write_text(content)
    done = run(EXECUTE, path, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path} ")


def test_a_notebook_outside_of_a_checkout_asks_for_the_repository(tmp_path):
    path = tmp_path / DEMO
    settings, setup, *_ = code_of(DEMO)
    notebook_of(path, settings.source, setup.source)
    done = run(EXECUTE, path, cwd=tmp_path)
    assert done.returncode == 1 and "set REPOSITORY" in done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout, whose `runs/` is its own."""
    (tmp_path / "launch" / "colab").mkdir(parents=True)
    for name in ("asyncthink_jax", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in FOLDER.glob("*.ipynb"):
        shutil.copy(path, tmp_path / "launch" / "colab")
    return tmp_path


def executed(checkout: Path, name: str, **environment: str) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook, run in the checkout; each must have outputs of the kinds that are committed."""
    path = checkout / "launch" / "colab" / name
    committed = cells_of(path, "code")
    done = run(EXECUTE, path, "--write", cwd=path.parent, **environment)
    assert done.returncode == 0, done.stderr[-4000:]
    cells = cells_of(path, "code")
    for before, after in zip(committed, cells, strict=True):
        assert after.execution_count == before.execution_count
        kinds = [
            [sorted(output.get("data", {output.output_type: ""})) for output in one.outputs] for one in (before, after)
        ]
        assert kinds[0] == kinds[1], after.source
    return cells


# `make notebooks` runs it whole; the outputs that it leaves there are looked at above.
SMOKE = {
    "--config.sft.steps=1700": "--config.sft.steps=20",
    "--config.sft.rows=8": "--config.rl.prompts=4",
    "--config.rl.iterations=24": "--config.rl.iterations=1",
    "--config.eval.problems=150": "--config.eval.problems=8",
    "--config.eval.validation_problems=100": "--config.eval.validation_problems=8",
}


@pytest.mark.slow
def test_every_cell_of_the_demo_runs(checkout):
    path = checkout / "launch" / "colab" / DEMO
    source = path.read_text(encoding="utf-8")
    for whole, short in SMOKE.items():
        assert source.count(whole) == 1, whole
        source = source.replace(whole, short)
    path.write_text(source, encoding="utf-8")
    executed(checkout, DEMO)


@pytest.mark.slow
def test_qwen3_runs_whole_with_a_tiny_random_model_in_its_place(checkout):
    made = run(FOLDER / "tiny_qwen3.py", "runs/tiny_qwen3", cwd=checkout, PYTHONPATH=str(ROOT))
    assert made.returncode == 0, made.stderr
    cells = executed(checkout, QWEN3, ASYNCTHINK_MODEL="runs/tiny_qwen3", ASYNCTHINK_QUICK="1")
    (training,) = [cell for cell in cells if cell.source.startswith("run(*train")]
    assert re.search(r"^sft 2/2 .*^rl 1/1 ", texts_of(training), re.MULTILINE | re.DOTALL)


def test_the_tiny_model_is_not_written_over_another_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    done = run(FOLDER / "tiny_qwen3.py", "model", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: model is not empty; name a new folder"

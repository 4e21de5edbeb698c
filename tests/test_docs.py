"""The documents stay true: what they name exists, their commands parse, and their examples follow the code."""

import ast
import dataclasses
import doctest
import functools
import graphlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from asyncthink_jax import config, sections
from asyncthink_jax.command import split_argv
from asyncthink_jax.protocol.episode import Attempt, Episode, Event, Trace
from asyncthink_jax.protocol.grammar import Grammar
from asyncthink_jax.protocol.parser import Parser
from asyncthink_jax.tasks import TASKS
from experiments import scores, table
from experiments.studies import BY_NAME

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "asyncthink_jax"
PAGES = tuple(sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
DOCS = (
    "README.md",
    *PAGES,
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "experiments/README.md",
    "launch/README.md",
    "launch/gke/README.md",
    "launch/colab/README.md",
)
SECTIONS = ("task", "data", "pool", "model", "mesh", "rollout", "sft", "rl", "eval", "checkpoint")

FIELDS = dict(sections.leaves(config.load(ROOT / "experiments/countdown_tiny.py")))

each_document = pytest.mark.parametrize("document", DOCS)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def code_in(text: str) -> list[str]:
    """Code spans, and the lines of fenced and of indented blocks, with continued lines put together."""
    text = text.replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", text)
    fenced = [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.split("\n")
    ]
    indented = re.findall(r"^ {4}(.*\S)$", text, re.MULTILINE)
    return [line.split("     #")[0].strip() for line in [*spans, *fenced, *indented]]


def commands_in(document: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m asyncthink_jax.X ..`."""
    words = [shlex.split(line) for line in code_in(text_of(document)) if line.startswith("python -m asyncthink_jax")]
    return [(line[2].removeprefix("asyncthink_jax."), line[3:]) for line in words]


def source_of(command: str) -> Path:
    """A command is a file of the package, or a folder that can be run."""
    places = (PACKAGE / f"{command}.py", PACKAGE / command / "__main__.py")
    found = [path for path in places if path.is_file()]
    assert found, f"there is no command {command}"
    return found[0]


def flags_of(command: str) -> set[str]:
    source = source_of(command).read_text(encoding="utf-8")
    found = re.findall(r'flags\.DEFINE_(\w+)\(\s*"(\w+)"', source)
    return {f"--{name}" for _, name in found} | {f"--no{name}" for kind, name in found if kind == "bool"}


# ------------------------------------------------------------------------------------------------------------ paths


@each_document
def test_every_path_that_a_document_names_exists(document):
    text = text_of(document)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    spans = re.findall(r"`([^`\s]+)`", text)
    tops = ("asyncthink_jax/", "docs/", "experiments/", "tests/", "launch/", ".ci/")
    names = [span.split(":")[0] for span in spans if "<" not in span]
    files = [
        name for name in names if re.fullmatch(r"[\w./-]+\.(py|md|ipynb|toml|yaml)", name) or name.startswith(tops)
    ]
    assert links or files or document == "CHANGELOG.md"
    places = (ROOT, (ROOT / document).parent, PACKAGE)
    missing = [name for name in [*links, *files] if not any((place / name).exists() for place in places)]
    assert not missing


def test_the_tree_of_the_readme_has_the_folders_of_the_package():
    shown = re.findall(r"^ {6}(\w+)/  ", text_of("README.md"), re.MULTILINE)
    assert sorted(shown) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_readme_is_read_in_three_minutes_and_links_to_every_page():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 160
    assert not [page for page in PAGES if f"({page})" not in text]


@pytest.mark.parametrize(
    ("document", "least"),
    [("ARCHITECTURE.md", 10), ("docs/tutorial.md", 20), ("docs/internals.md", 20), ("docs/design.md", 1)],
)
def test_every_function_that_the_architecture_names_is_defined_there(document, least):
    references = re.findall(r"`([\w/]+\.py):([\w.]+)`", text_of(document))
    assert len(references) > least
    for path, name in references:
        scope = tree_of(PACKAGE / path).body
        for part in name.split("."):
            found = [node for node in scope if part in _defined(node)]
            assert found, f"{path} has no {name}"
            scope = getattr(found[0], "body", [])


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


# ---------------------------------------------------------------------------------------------------------- English


def sentences_in(document: str) -> list[str]:
    """Of the paragraphs and lists: no tables, no blocks of code."""
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\n(?=\|)", text)
    prose = [" ".join(part.split()) for part in parts if not part.startswith(("    ", "|", "<", "#", "!"))]
    return [sentence for part in prose for sentence in re.split(r"(?<=[.:;?!]) (?=[A-Z`\[(*])", part)]


@pytest.mark.parametrize("document", [document for document in DOCS if document != "CHANGELOG.md"])
def test_sentences_are_short_and_name_their_nouns(document):
    sentences = sentences_in(document)
    assert sentences and not [sentence for sentence in sentences if len(sentence.split()) > 40]
    assert document == "CONTRIBUTING.md" or "so many" not in text_of(document)


# --------------------------------------------------------------------------------------------------------- commands


@each_document
def test_every_command_and_every_flag_in_a_document_exists(document):
    for command, arguments in commands_in(document):
        others, _ = split_argv(arguments)
        unknown = {word.split("=")[0] for word in others if word.startswith("--")} - flags_of(command)
        assert not unknown, f"{command} has no {unknown}"


@each_document
def test_the_config_and_the_overrides_of_every_command_load(document):
    for _, arguments in commands_in(document):
        others, overrides = split_argv(arguments)
        if "--config" in others and (path := others[others.index("--config") + 1]).endswith(".py"):
            config.load(ROOT / path, overrides)


def test_the_page_of_commands_tells_of_every_flag_of_every_command():
    named = set(re.findall(r"`(--\w+)`", text_of("docs/commands.md")))
    commands = {command for command, _ in commands_in("docs/commands.md")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert commands == folders | {path.stem for path in PACKAGE.glob("*.py") if "__main__" in path.read_text()}
    for command in commands:
        missing = {flag for flag in flags_of(command) if not flag.startswith("--no")} - named
        assert missing <= {"--evaluate"}, command  # told of as --noevaluate


@each_document
def test_every_make_target_in_a_document_exists(document):
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {match[1] for line in code_in(text_of(document)) if (match := re.match(r"make ([a-z-]+)", line))}
    assert named <= targets


def test_the_readme_names_the_targets_that_a_stranger_starts_with():
    assert {"make train", "make test"} <= set(code_in(text_of("README.md")))
    assert {"make train", "make baselines"} <= set(code_in(text_of("docs/quickstart.md")))


# ----------------------------------------------------------------------------------------------------------- config


@each_document
def test_every_config_field_in_a_document_exists(document):
    fields = set(FIELDS) | {f"task.{field.name}" for task in TASKS.values() for field in dataclasses.fields(task)}
    named = {
        span for span in re.findall(r"`([a-z_]+\.[a-z_0-9]+)`", text_of(document)) if span.split(".")[0] in SECTIONS
    }
    assert {name for name in named if not name.endswith((".py", ".model"))} <= fields
    assert named or document not in ("docs/method.md", "docs/commands.md", "docs/long_runs.md")


def test_the_page_of_commands_names_every_section_of_the_config():
    assert set(SECTIONS) == {path.split(".")[0] for path in FIELDS if "." in path}
    for section in SECTIONS:
        assert f"`{section}`" in text_of("docs/commands.md")


def test_the_error_that_the_page_of_commands_shows_is_the_one_that_comes():
    shown = next(line for line in code_in(text_of("docs/commands.md")) if line.startswith("error: "))
    key = re.search(r"'(.*?)'", shown)[1]
    with pytest.raises(config.ConfigError) as error:
        config.load(ROOT / "experiments/countdown_tiny.py", [f"{key}=1"])
    assert shown == f"error: {error.value}"


def test_every_experiment_has_a_row():
    text = text_of("experiments/README.md")
    for path in (ROOT / "experiments").glob("*.py"):
        if "def get_config" in path.read_text(encoding="utf-8"):
            assert f"({path.name})" in text


EXPERIMENTS = {
    path.stem: ast.get_docstring(tree_of(path))
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if "def get_config" in path.read_text(encoding="utf-8")
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_note_of_an_experiment_pairs_its_command_with_the_number_to_expect(name):
    note = EXPERIMENTS[name]
    expected = re.search(r"^Command: .*?^Expect: (.*?)^\w+: ", note, re.DOTALL | re.MULTILINE)
    assert expected, "Command, then Expect"
    told = " ".join(expected[1].split())
    shown = [study for study in BY_NAME.values() if study.config == name and not study.overrides]
    if name == "countdown_tiny_parallel":
        shown = [BY_NAME["parallel"]]
    for study in shown:
        rows = scores.rows_of(table.load(), study.name, table.LAST_STAGE.get(study.name, "after_rl"))
        assert f"{scores.cell(rows, ('', 'all_correct', 100, 1))}%" in told
        assert scores.cell(rows, ("", "critical_path", 1, 0)) in told
    assert shown or "never run" in told or "not run" in told


# --------------------------------------------------------------------------------------------------------- examples


def test_the_example_of_the_method_follows_the_protocol():
    block = re.search(r"^    step\n(.*?)\n\n", text_of("docs/method.md"), re.DOTALL | re.MULTILINE)[1]
    inserted = re.compile(r"[^>]*</JOIN-\d+>")
    parser = Parser("organizer", Grammar(capacity=4, max_forks=6))
    for line in block.splitlines()[1:]:
        parser.feed(inserted.sub("", re.sub(r"   .*", "", re.sub(r"^ +\d+ +", "", line))))
    assert parser.done and not parser.error
    assert parser.used == parser.joined == {1, 2, 3, 5, 6}  # it searches the fourth pair itself


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n>>> " in text_of(page)])
def test_the_python_examples_of_a_page_give_what_stands_there(page):
    blocks = re.findall(r"^```python\n(>>> .*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, page, page, 0)
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_line_of_episodes_jsonl_in_the_docs_has_the_fields_of_an_episode():
    shown = json.loads(re.search(r"```json\n(.*?)```", text_of("docs/files.md"), re.DOTALL)[1])
    none = np.zeros(0, np.int32)
    trace = Trace("organizer", None, none, none, none.astype(bool), none.astype(np.float32), none, [], "answer")
    made = Attempt("", {}, 0, Episode("async", 1, [trace], "", None, 0, 0.0), {}, None).to_json(str)
    assert list(shown) == list(made)
    for one in shown["traces"]:
        assert list(one) == list(made["traces"][0])
        for event in one["events"]:
            assert Event(**event)


# ----------------------------------------------------------------------------------------------------------- arrows


def test_imports_are_the_arrows_of_the_architecture_and_point_down_only():
    picture = re.search(r"^```\n(train\.py.*?)^```", text_of("ARCHITECTURE.md"), re.DOTALL | re.MULTILINE)[1]
    lines = [line.split(" -> ") for line in picture.splitlines()]
    of_folder = {
        name: number for number, (left, _) in enumerate(lines) for name in re.findall(r"[a-z_]+(?=/|\.py)", left)
    }
    drawn = {number: set(re.findall(r"[a-z_]+", right)) - {"nothing"} for number, (_, right) in enumerate(lines)}
    found: dict[int, set[str]] = {number: set() for number in drawn}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own != "__init__":
            found[of_folder[own]] |= _imports(path) - {own}
    assert found == drawn
    assert all(of_folder[target] > number for number, targets in found.items() for target in targets)


def test_nothing_in_the_package_imports_in_a_circle():
    """Not in a function or for types alone either."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found = _modules(path)
        graph[name] = (set(found) | {module.rpartition(".")[0] for module in found}) & files.keys()
    assert sum(map(len, graph.values())) > 300, "imports are found"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _imports(path: Path) -> set[str]:
    """The folders of the package that a file imports from."""
    return {module.split(".")[1] for module in _modules(path)}


def _modules(path: Path) -> list[str]:
    """What a file imports of the package, wherever: a.b for `from a import b`, be b a module or a name."""
    modules = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    return [module for module in modules if module.startswith("asyncthink_jax.")]


def test_the_tables_are_those_of_the_committed_results():
    assert table.load(), "no results are committed"
    for path, name, block in table.blocks():
        assert block in path.read_text(encoding="utf-8"), f"{path.name}, {name}: run `make table`"


def test_the_caption_tells_a_time_of_a_run_alone_and_none_of_a_shared_one():
    clock = {"setup": 0.0, "sft": 60.0, "rl": 30.0, "eval": 5.0}
    run = {"hardware": "8 CPU cores (some)", "date": "2026-01-02", "commit": "0123456789ab"}
    alone, shared = table.caption({0: run | {"wall_clock_s": clock}}), table.caption({1: run})
    assert "`make train` (seed 0) took 1:35 minutes after the installation (cold start 1:00, RL 0:30" in alone
    assert "Seed 1 was run beside others on 8 CPU cores (some), 2026-01-02, commit `0123456789`." in shared
    with pytest.raises(KeyError):
        table.whole_run(run | {"wall_clock_s": clock})  # not on two cores

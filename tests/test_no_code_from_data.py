"""No file, message or answer is ever run as code: the package has none of the calls by which that happens."""

import ast
from pathlib import Path

import pytest

import asyncthink_jax

PACKAGE = Path(asyncthink_jax.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
CALLS = {"eval", "exec", "compile", "__import__"}  # the builtins; `jax.jit(..).compile` is a method
METHODS = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "subprocess.getoutput"}


def runs_data(source: str) -> list[str]:
    """What in a module could run what it reads, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = None
        if isinstance(node, ast.Import):
            what = next((one.name for one in node.names if one.name.split(".")[0] in MODULES), None)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in MODULES:
            what = node.module
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS | METHODS:
                what = name
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell", "trust_remote_code") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    what = f"{name}({keyword.arg})"
        if what:
            found.append(f"line {node.lineno}: {what}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_is_read_is_run(path):
    assert runs_data(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, torch.nn as nn",
        "from joblib import load",
        "def f(x):\n    return eval(x)",
        "exec(open('x').read())",
        "yaml.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.load(x, allow_pickle=flag)",
        "subprocess.run(x, shell=True)",
        "datasets.load_dataset(x, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert len(runs_data(source)) == 1
    assert runs_data("np.load(x, allow_pickle=False); jax.jit(f).lower(x).compile(); model.eval(x)") == []

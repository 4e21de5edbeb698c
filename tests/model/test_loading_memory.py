"""Slow: loading a billion parameters takes no second copy of them, in processes of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / "loading_memory.py"

pytestmark = pytest.mark.slow


def run(*arguments):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("billion")
    run("write", folder)
    return folder


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("dtype", "fsdp", "tensor"), [("bfloat16", 8, 1), ("float32", 4, 2)])
def test_the_peak_is_the_arrays_and_little_more(checkpoint, dtype, fsdp, tensor):
    found = json.loads(run("load", checkpoint, dtype, fsdp, tensor))
    print(found)
    assert found["arrays"] > 1e9 * (2 if dtype == "bfloat16" else 4)
    assert found["peak"] - found["before"] <= 1.1 * found["arrays"]

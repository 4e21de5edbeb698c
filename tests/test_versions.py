"""What pyproject.toml asks for: a lower bound for each package, and none that lets a known hole in."""

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements():
    """All requirements, those of the extras too, as written; not the extras that another one takes in."""
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    return [one for one in [*PROJECT["dependencies"], *extras] if not one.startswith(PROJECT["name"])]


def lower_bound(requirement):
    match = re.match(r"[\w.-]+(?:\[[\w,]+\])?>=([\d.]+)", requirement)
    assert match, f"{requirement} has no lower bound, so nobody can hold it to one (make test-lowest)"
    return tuple(map(int, match[1].split(".")))


def test_every_requirement_has_a_lower_bound_which_is_the_same_everywhere():
    bounds = {}
    for requirement in requirements():
        if requirement != "jax[tpu]":  # as jax, which is asked for itself
            name = re.match(r"[\w.-]+", requirement)[0].lower().replace("-", "_")
            assert bounds.setdefault(name, lower_bound(requirement)) == lower_bound(requirement), name


@pytest.mark.parametrize(
    ("name", "least", "why"),
    [
        ("jinja2", (3, 1, 6), "a chat template gets out of the sandbox (CVE-2025-27516)"),
        ("sentencepiece", (0, 2, 1), "a crafted model writes out of bounds"),
        ("datasets", (4,), "a dataset runs a script of its own"),
        ("pyarrow", (14, 0, 1), "a crafted file runs code (CVE-2023-47248)"),
    ],
)
def test_versions_with_a_known_hole_are_excluded(name, least, why):
    asked = [lower_bound(one) for one in requirements() if re.match(rf"{name}\b", one)]
    assert asked and min(asked) >= least, why

"""The TPU compiler that is installed, against the one that jax asks for."""

from importlib.metadata import PackageNotFoundError

import pytest

from asyncthink_jax.audit import chips


@pytest.mark.parametrize(
    ("found", "is_wrong"),
    [("0.0.42", False), ("0.0.42.1", False), ("0.0.4", True), ("0.0.420", True), ("0.0.29", True)],
)
def test_another_compiler_than_jax_asks_for_is_named(monkeypatch, found, is_wrong):
    monkeypatch.setattr(chips, "version", lambda _: found)
    monkeypatch.setattr(chips, "requires", lambda _: ["jaxlib==1", 'libtpu==0.0.42.*; extra == "tpu"'])
    said = chips.wrong_compiler()
    assert (said is not None) == is_wrong
    assert not is_wrong or (
        said.startswith(f"libtpu {found} is installed") and "pip install 'libtpu==0.0.42.*'" in said
    )


def test_without_a_compiler_or_a_word_of_jax_none_is_wrong(monkeypatch):
    def missing(_):
        raise PackageNotFoundError

    monkeypatch.setattr(chips, "version", lambda _: "0.0.29")
    monkeypatch.setattr(chips, "requires", lambda _: None)
    assert chips.wrong_compiler() is None
    monkeypatch.setattr(chips, "version", missing)
    assert chips.wrong_compiler() is None

"""`pip install -e .` to train, `pip install -e '.[test]'` to run the tests too. The metadata is in pyproject.toml."""

from setuptools import setup

setup()

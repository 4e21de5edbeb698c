"""The former place of `asyncthink_jax/files.py`."""

from asyncthink_jax.files import locked, replace_text

__all__ = ["locked", "replace_text"]

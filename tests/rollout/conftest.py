"""The tests of the engine speak of the same scripts as those of its reference, the interpreter."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "protocol"))

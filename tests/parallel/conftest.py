"""The tests of several processes train the runs that the tests of the command kill."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

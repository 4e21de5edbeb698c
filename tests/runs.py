"""What tests do with runs that train: wait for a moment, and look at what is left in the end."""

import time

from experiments.run_end import what_is_left, without_times

__all__ = ["wait_for_lines", "what_is_left", "without_times"]


def wait_for_lines(process, path, lines):
    """Returns when the metrics have so many lines."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, f"ended with {process.returncode} before line {lines} of {path}"
        time.sleep(0.005)

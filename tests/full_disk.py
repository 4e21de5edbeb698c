"""A full disk, for tests: without one, and without the rights to make one."""

import resource
import signal
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size):
    """As on a full disk: a write takes what still fits into the file, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)

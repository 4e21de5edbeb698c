"""Settings of all tests."""

import signal

import hypothesis
import pytest

# Machines differ and are shared: no test may fail for its time.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


def pytest_addoption(parser):
    parser.addoption("--sweep", type=int, default=1, metavar="N", help="N times as many inputs in searches at random")


@pytest.fixture(scope="session")
def sweep(request):
    """How many times as many random inputs a search is to try; above 1, what is left to be run by hand runs too."""
    return request.config.getoption("--sweep")


# A shell starts what runs in its background with Ctrl-C ignored, and so would be all that tests start to interrupt it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

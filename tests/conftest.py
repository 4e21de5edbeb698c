"""Settings of all tests."""

import signal

import hypothesis

# Machines differ and are shared: no test may fail for its time.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be all that tests start to interrupt it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

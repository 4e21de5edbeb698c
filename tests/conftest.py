"""Settings of all tests."""

import hypothesis

# Machines differ and are shared: no test may fail for its time.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

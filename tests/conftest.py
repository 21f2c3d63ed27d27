"""Settings of all tests."""

from hypothesis import settings

# A busy machine is slow, and says nothing about the code.
settings.register_profile("harness", deadline=None)
settings.load_profile("harness")

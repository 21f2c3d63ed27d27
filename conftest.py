"""Loads the harness's own plugin, and pytester for the tests of it."""

pytest_plugins = ["harness.pytest_plugin", "pytester"]

"""Captures legs. Only the modules that run inside a leg's process import a backend, and only there."""

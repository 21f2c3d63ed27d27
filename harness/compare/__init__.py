"""Compares traces: files in, check results out. Imports no backend and never torch."""

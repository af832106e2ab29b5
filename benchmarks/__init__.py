"""Measurements, each run as ``python -m benchmarks.NAME [--quick]``; the last line they print is one JSON object.

What is measured is the installed or checked-out package as a user calls it; nothing here is part of the package.
"""

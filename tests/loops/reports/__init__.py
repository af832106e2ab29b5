"""Faulty training loops from real reports, each beside its twin that is right, and the test that runs them all.

One file per group of rules; an entry is one class in it (see ``entry``).
"""

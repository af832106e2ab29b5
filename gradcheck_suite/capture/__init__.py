"""Torch door 1: what observes a run and what prepares and restores it.

Here live the recorder, where an operation comes from (file, line, module path), mutation tracking, inputs, outputs
and the state guard. What the recorded operations *mean* does not live here.
"""

"""Torch door 2: those who can say something about a gradient.

``torch_reverse`` is the defendant: it runs the model and its backward and records both. ``engine`` replays nodes and
sums; ``replay`` the whole trace; ``finite_difference`` looks at the function itself.
"""

"""The training loops of PyTorch's examples and tutorials, on tiny made-up data, and the test that watches them all.

They are written the way the tutorials write them: that is what has to be left in peace. One file per field; a loop is
one function that returns what it has trained (see ``registry``).
"""

"""Unusual training loops with one mistake each; the line to blame ends in ``# <-``. Their right twins are in tutorials/."""

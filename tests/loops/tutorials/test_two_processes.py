"""Distributed data-parallel training in two processes, each watching itself."""

from __future__ import annotations

import pytest
import torch

from .distributed import ddp_in_processes


@pytest.mark.slow
def test_two_ranks_are_left_in_peace_and_agree_to_the_bit():
    ranks = ddp_in_processes()
    assert [rank["said"] for rank in ranks] == [[], []]
    for rank, other in zip(ranks, reversed(ranks)):
        assert rank["counts"]["backwards"] > 0
        for plain, watched, elsewhere in zip(rank["plain"], rank["watched"], other["watched"]):
            assert torch.equal(plain, watched)
            assert torch.equal(watched, elsewhere)

"""What a block adds to ``.grad``."""

from __future__ import annotations

import torch

from gradcheck_suite.witnesses.accumulation import inner_accumulation


def test_what_is_added_is_told_and_taken_back():
    used, kept, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    before = kept.grad = torch.full((2,), 7.0)
    called = []
    used.register_post_accumulate_grad_hook(called.append)
    with inner_accumulation([used, kept, unused, used, used * 1]) as added:
        (2 * used + 3 * kept).sum().backward()
    assert [None if a is None else a.tolist() for a in added] == [[2, 2], [3, 3], None, [2, 2], None]
    assert used.grad is None
    assert kept.grad is before
    assert called == []
    used.sum().backward()
    assert len(called) == 1


def test_an_exception_leaves_everything_as_it_was():
    leaf = torch.ones(2, requires_grad=True)
    before = leaf.grad = torch.ones(2)
    try:
        with inner_accumulation([leaf]):
            leaf.sum().backward()
            raise ValueError
    except ValueError:
        pass
    assert leaf.grad is before
    assert torch.equal(before, torch.ones(2))

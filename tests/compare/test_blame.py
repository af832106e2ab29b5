"""From local facts to what is known of a gradient: one pass along the graph."""

from __future__ import annotations

import numpy as np

from gradcheck_suite.compare.blame import arrivals, backward_order, behind_surrogates
from gradcheck_suite.compare.padding import padding_elements
from gradcheck_suite.evidence import (
    Edge,
    FunctionCall,
    NodeRecord,
    OpRecord,
    Outcome,
    TensorRef,
    Testimony,
    Trace,
)

AGREE, DISAGREE, OPEN = Outcome.AGREE, Outcome.DISAGREE, Outcome.INCONCLUSIVE


def graph(**edges: list[int]) -> Trace:
    """Nodes ``n1=[2, -1]``: node 1 sends to node 2 and leaf 1; leaves are made as needed."""
    nodes: dict[int, NodeRecord] = {}
    for name, targets in edges.items():
        key = int(name[1:])
        nodes[key] = NodeRecord(
            key, f"Node{key}", role="op", edges=tuple(Edge(t, 0) for t in targets), ran=True
        )
        for target in targets:
            if target < 0:
                nodes.setdefault(target, NodeRecord(target, "AccumulateGrad", role="leaf"))
    return Trace([], nodes, (), leaves={f"p{-k}": k for k in nodes if k < 0})


def agree(trace: Trace) -> dict[int, dict[int, Outcome]]:
    return {k: dict.fromkeys(range(len(n.edges)), AGREE) for k, n in trace.nodes.items() if k > 0}


DIAMOND = {"n1": [2, 3], "n2": [4], "n3": [4, -2], "n4": [-1]}


def test_each_node_comes_before_those_it_sends_to() -> None:
    order = backward_order(graph(**DIAMOND))
    place = {key: i for i, key in enumerate(order)}
    assert sorted(order) == [-2, -1, 1, 2, 3, 4]
    assert place[1] < place[2] < place[4] < place[-1]
    assert place[3] < place[4]
    assert place[3] < place[-2]


def test_a_long_chain_does_not_recurse() -> None:
    count = 20_000
    trace = graph(**{f"n{k}": [k + 1 if k < count else -1] for k in range(1, count + 1)})
    arrived = arrivals(trace, agree(trace), {})
    assert arrived[-1].outcome is AGREE
    assert arrived[-1].nodes == count


def test_what_agrees_everywhere_is_proved_and_its_nodes_are_counted_once() -> None:
    trace = graph(**DIAMOND)
    arrived = arrivals(trace, agree(trace), {})
    assert (arrived[-1].outcome, arrived[-1].nodes, arrived[-1].culprit) == (AGREE, 4, 0)
    assert (arrived[-2].outcome, arrived[-2].nodes) == (AGREE, 2)


def test_a_wrong_gradient_spoils_what_lies_behind_it_only() -> None:
    trace = graph(**DIAMOND)
    edges = agree(trace)
    edges[3][0] = DISAGREE
    arrived = arrivals(trace, edges, {})
    assert (arrived[-1].outcome, arrived[-1].culprit) == (DISAGREE, 3)
    assert arrived[-2].outcome is AGREE


def test_the_worst_wins_and_names_its_node() -> None:
    trace = graph(**DIAMOND)
    edges = agree(trace)
    edges[2][0], edges[4][0] = OPEN, DISAGREE
    arrived = arrivals(trace, edges, {})
    assert (arrived[4].outcome, arrived[4].culprit) == (OPEN, 2)
    assert (arrived[-1].outcome, arrived[-1].culprit) == (DISAGREE, 4)


def test_a_node_that_was_not_looked_at_leaves_it_open() -> None:
    trace = graph(**DIAMOND)
    edges = agree(trace)
    del edges[2]
    assert arrivals(trace, edges, {})[-1].outcome is OPEN


def test_a_wrong_sum_spoils_the_node_that_it_arrives_at() -> None:
    trace = graph(**DIAMOND)
    arrived = arrivals(trace, agree(trace), {(4, 0): Testimony("sum", "cotangent", DISAGREE)})
    assert (arrived[-1].outcome, arrived[-1].culprit) == (DISAGREE, 4)
    assert arrived[-2].outcome is AGREE


def test_leaves_behind_a_declared_surrogate() -> None:
    trace = graph(**DIAMOND)
    assert behind_surrogates(trace) == set()
    trace.nodes[2].function = FunctionCall(1, "Round", None, surrogate="straight-through")
    assert behind_surrogates(trace) == {"p1"}
    trace.nodes[1].function = FunctionCall(2, "Round", None, surrogate="straight-through")
    assert behind_surrogates(trace) == {"p1", "p2"}


def embedding(weight: TensorRef, row: int, by_name: bool = False) -> OpRecord:
    args = (weight, None) if by_name else (weight, None, row)
    kwargs = {"padding_idx": row} if by_name else {}
    return OpRecord(0, "aten::embedding", args, kwargs, (), (), None, "", None, True)


def test_padding_rows_by_position_and_by_name() -> None:
    trace = graph(n1=[-1])
    source = type("Source", (), {})()
    weight = TensorRef(1, 0, (4, 2), (2, 1), 0, "float32", "cpu", True, source, edge=(-1, 0))
    assert padding_elements(trace) == {}
    trace.ops = [embedding(weight, -1)]
    assert padding_elements(trace) == {}
    trace.ops = [embedding(weight, 2), embedding(weight, 0, by_name=True)]
    (mask,) = padding_elements(trace).values()
    np.testing.assert_array_equal(np.flatnonzero(mask.any(1)), [0, 2])
    np.testing.assert_array_equal(np.flatnonzero(mask.all(1)), [0, 2])

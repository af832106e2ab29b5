"""Reports built by hand, for the tests of every format."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from gradcheck_suite.evidence import (
    CodeExcerpt,
    Comparison,
    GradientVerdict,
    GraphEdge,
    GraphNode,
    Location,
    NodeVerdict,
    Outcome,
    Report,
    Unverified,
)
from gradcheck_suite.evidence import Testimony as Statement
from gradcheck_suite.rules.gradient_mismatch import GradientMismatch
from gradcheck_suite.rules.unused_parameter import UnusedParameter

HOSTILE = "<script>alert('x')</script>&\"'</svg>]]>"


def comparison(**changes):
    values = {
        "elements": 24,
        "differing": 21,
        "index": (2, 7),
        "expected": 6.18,
        "actual": 4.12,
        "error": 2.06,
        "tolerance": 3e-6,
        "scale": 6.18,
        "max_error": 2.06,
        "pattern": "the ratio is 2/3 everywhere: a factor is missing in backward",
    }
    return Comparison(**{**values, **changes})


def wrong_testimony(**changes):
    return Statement(
        "engine", "d loss / d input of CubeBackward", Outcome.DISAGREE, comparison(**changes), "", 6.18
    )


def right_testimony(subject="d loss / d input 1 of AddmmBackward0"):
    numbers = comparison(differing=0, error=1e-7, max_error=1e-7, actual=6.1800001, pattern="")
    return Statement("engine", subject, Outcome.AGREE, numbers)


def node(key, name, outcome=Outcome.AGREE, how="meaning", **changes):
    values = {
        "key": key,
        "name": name,
        "op": "aten::addmm",
        "location": Location("model.py", 12, "forward"),
        "module": "net.first",
        "outcome": outcome,
        "how": how,
        "testimonies": (right_testimony(),),
        "inputs": ("float32[3, 8]", "float32[8, 8]"),
        "outputs": ("float32[3, 8]",),
        "elements": 24,
    }
    return NodeVerdict(**{**values, **changes})


def graph(nodes):
    kinds = {"AccumulateGrad": "leaf", "CubeBackward": "function"}
    drawn = tuple(
        GraphNode(
            n.key, n.name, kinds.get(n.name, "op"), n.outcome, ", ".join(n.outputs), n.module, n.location
        )
        for n in nodes
    )
    return drawn, tuple(GraphEdge(a.key, b.key) for a, b in pairwise(nodes))


def failing():
    """One wrong custom backward, one unverified node, one inconclusive gradient."""
    bad = node(
        3,
        "CubeBackward",
        Outcome.DISAGREE,
        op="Cube",
        module="net.block.3",
        location=Location("model.py", 31, "forward"),
        testimonies=(wrong_testimony(),),
    )
    nodes = (
        node(1, "MseLossBackward0", op="aten::mse_loss", module=""),
        node(2, "AddmmBackward0"),
        bad,
        node(4, "SolveBackward0", Outcome.INCONCLUSIVE, "", op="aten::solve", testimonies=(), elements=0),
        node(5, "TanhBackward0", Outcome.INCONCLUSIVE, "numerical", op="aten::tanh"),
        node(6, "AccumulateGrad", how="exact", op="leaf", testimonies=(), location=None),
    )
    finding = GradientMismatch.from_node(
        bad, bad.testimonies[0], backward=Location("model.py", 36, "backward"), function_name="Cube"
    )
    excerpts = {
        "model.py:31": CodeExcerpt(
            29,
            (
                "    def forward(self, x):",
                "        h = self.first(x)",
                "        h = Cube.apply(h)",
                "        return h",
            ),
        ),
        "model.py:36": CodeExcerpt(
            35, ("    @staticmethod", "    def backward(ctx, g):", "        (x,) = ctx.saved_tensors")
        ),
    }
    drawn, edges = graph(nodes)
    return Report(
        title="net",
        findings=(
            replace(finding, excerpts=excerpts, reproduction="from model import Net\ncheck_gradients(Net())"),
            *UnusedParameter.from_names(["net.spare.weight", "net.spare.bias"]),
        ),
        gradients=(
            GradientVerdict(
                "net.first.weight", "parameter", (8, 8), "float32", Outcome.DISAGREE, (), 6.18, 4, 2.1
            ),
            GradientVerdict(
                "net.first.bias", "parameter", (8,), "float32", Outcome.DISAGREE, (), 0.62, 4, 0.2
            ),
            GradientVerdict(
                "net.last.weight", "parameter", (2, 8), "float32", Outcome.AGREE, (), 0.004, 1, 2e-8
            ),
            GradientVerdict(
                "inputs[0]",
                "input",
                (3, 8),
                "float32",
                Outcome.INCONCLUSIVE,
                (),
                0.1,
                6,
                None,
                "solve has no meaning",
            ),
        ),
        nodes=nodes,
        unverified=(Unverified("SolveBackward0", "aten::solve has no meaning in the engine", 2),),
        testimonies=(
            Statement(
                "finite_difference", "d loss along a direction", Outcome.DISAGREE, comparison(index=())
            ),
        ),
        graph_nodes=drawn,
        graph_edges=edges,
        notes=("the inputs were inferred from the first layer: float32[3, 8]",),
        environment={"torch": "2.15.0", "python": "3.11.4", "device": "cpu", "seed": "0"},
        timings={"record": 0.104, "verify": 0.31, "total": 0.42},
        counts={"nodes": 6, "elements": 1482, "suppressed": 1},
        reproduction="gradcheck check model.py:Net --seed 0",
    )


def passing(parameters=3):
    nodes = (node(1, "MseLossBackward0"), node(2, "AddmmBackward0"), node(3, "AccumulateGrad", how="exact"))
    drawn, edges = graph(nodes)
    return Report(
        title="mlp",
        gradients=tuple(
            GradientVerdict(
                f"layers.{i}.weight", "parameter", (8, 8), "float32", Outcome.AGREE, (), 10.0**-i, 2
            )
            for i in range(parameters)
        ),
        nodes=nodes,
        testimonies=(
            Statement(
                "finite_difference",
                "d loss",
                Outcome.AGREE,
                comparison(differing=0, max_error=2e-9, pattern=""),
            ),
        ),
        graph_nodes=drawn,
        graph_edges=edges,
        timings={"record": 0.01, "verify": 0.02},
    )


def nothing():
    return Report(
        title="opaque",
        gradients=(
            GradientVerdict("w", "parameter", (2,), "float32", Outcome.INCONCLUSIVE, reason="no witness"),
        ),
        unverified=(Unverified("w", "every witness abstained"),),
    )


def hostile():
    """Every text a user controls tries to break out of its place."""
    base = failing()
    finding = replace(
        base.findings[0],
        message=HOSTILE,
        hint=HOSTILE,
        module=HOSTILE,
        op=HOSTILE,
        reproduction=HOSTILE,
        location=Location(HOSTILE, 3),
        evidence={HOSTILE: HOSTILE},
        excerpts={f"{HOSTILE}:3": CodeExcerpt(3, (HOSTILE,))},
    )
    return replace(
        base,
        title=HOSTILE,
        findings=(finding,),
        notes=(HOSTILE,),
        reproduction=HOSTILE,
        environment={HOSTILE: HOSTILE},
        gradients=(replace(base.gradients[0], name=HOSTILE, reason=HOSTILE),),
        unverified=(Unverified(HOSTILE, HOSTILE),),
        nodes=tuple(
            replace(n, name=HOSTILE, op=HOSTILE, module=HOSTILE, inputs=(HOSTILE,)) for n in base.nodes
        ),
        graph_nodes=tuple(
            replace(n, label=HOSTILE, detail=HOSTILE, module=HOSTILE) for n in base.graph_nodes
        ),
    )

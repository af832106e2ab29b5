"""``watch`` sees hazards and changes nothing: innocent loops are quiet, every trace of the watcher goes away."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref

import pytest
import torch
from loops import LOOPS, mean_square, small
from torch import nn

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity
from gradcheck_suite.watching import Ledger

LEDGER = Ledger()
OPTIMIZER = sys.modules["torch.optim.optimizer"]


def loud(report):
    return [f for f in report.findings if f.severity > Severity.NOTE]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_is_right_is_quiet_and_computes_the_same(name):
    torch.manual_seed(0)
    plain = [t.detach().clone() for t in LOOPS[name]()]
    torch.manual_seed(0)
    with watch(shared=LEDGER) as session:
        watched = LOOPS[name]()
    assert session.internal_errors == []
    assert loud(session.report) == [], str(session.report)
    assert session.report.counts["backwards"] > 0
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)


def never_zeroed(rounds, model=None, optimizer=None):
    model = model or nn.Linear(3, 1)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-6)
    for _ in range(rounds):
        mean_square(model).backward()
        optimizer.step()


def codes(session):
    return [f.code for f in loud(session.report)]


# ------------------------------------------------------------------------------------------------ stale gradients


def partly_zeroed():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model[0].zero_grad()
        mean_square(model).backward()
        optimizer.step()


def zeroed_on_another_optimizer():
    one, other = small(), small()
    for_one, for_other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other))
    for _ in range(3):
        for_other.zero_grad()
        mean_square(one).backward()
        for_one.step()


def closure_that_never_zeroes():
    model = small()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)

    def closure():
        loss = mean_square(model)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def by_hand_through_data():
    model = small()
    for _ in range(3):
        mean_square(model).backward()
        for p in model.parameters():
            p.data.add_(p.grad.data, alpha=-0.1)


def by_hand_with_momentum():
    weight, velocity = torch.randn(3, requires_grad=True), torch.zeros(3)
    for _ in range(3):
        weight.pow(2).sum().backward()
        with torch.no_grad():
            velocity.mul_(0.9).add_(weight.grad)
            weight.sub_(0.1 * velocity)


def by_hand_by_assignment():
    weight = torch.randn(3, requires_grad=True)
    for _ in range(4):
        weight.pow(2).sum().backward()
        weight.data = weight.data - 0.1 * weight.grad


def by_hand_foreach():
    model = small()
    for _ in range(3):
        mean_square(model).backward()
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), [p.grad for p in model.parameters()], alpha=-0.1)


def gan_that_zeroes_the_generator_only():
    generator, critic = nn.Linear(2, 3), nn.Linear(3, 1)
    for_generator, for_critic = (torch.optim.Adam(m.parameters()) for m in (generator, critic))
    for _ in range(3):
        critic(torch.randn(4, 3)).mean().backward()
        for_critic.step()
        for_generator.zero_grad()
        critic(generator(torch.randn(4, 2))).mean().backward()
        for_generator.step()


def with_grad_scaler():
    model = small()
    optimizer, scaler = (
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.amp.GradScaler("cpu", init_scale=2.0),
    )
    for _ in range(3):
        scaler.scale(mean_square(model)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize(
    "stale",
    [
        partly_zeroed,
        zeroed_on_another_optimizer,
        closure_that_never_zeroes,
        by_hand_through_data,
        by_hand_with_momentum,
        by_hand_by_assignment,
        by_hand_foreach,
        gan_that_zeroes_the_generator_only,
        with_grad_scaler,
    ],
)
def test_a_stale_gradient_is_found(stale):
    with watch(shared=LEDGER) as session:
        stale()
    assert session.internal_errors == []
    assert set(codes(session)) == {"GC301"}, str(session.report)
    (finding,) = loud(session.report)
    assert finding.location.function == stale.__name__
    assert {r.role for r in finding.related} == {"gradient made by", "already used by", "added to by"}


def test_only_the_parameters_that_were_not_zeroed_are_named():
    with watch(shared=LEDGER) as session:
        partly_zeroed()
    (finding,) = loud(session.report)
    assert sorted(finding.evidence["parameters"]) == ["2.bias", "2.weight"]


def test_a_long_loop_is_one_finding_with_a_count():
    with watch(verify=False) as session:
        never_zeroed(300)
    (finding,) = loud(session.report)
    assert (finding.count, finding.evidence["first"], finding.evidence["last"]) == (299, 2, 300)


def test_findings_are_silenced_by_name_and_counted():
    with watch(verify=False, ignore=("unzeroed-grad",)) as session:
        never_zeroed(3)
    assert codes(session) == []
    assert session.report.counts["suppressed"] == 1


# ------------------------------------------------------------------------------------------------ errors of torch


def test_an_error_of_torch_stays_what_it_is_and_gets_a_note():
    x = torch.randn(3, requires_grad=True)
    with watch() as session:
        y = x.exp()
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as caught:
            y.sum().backward()
    assert type(caught.value) is RuntimeError
    assert codes(session) == ["GC201"]
    if hasattr(caught.value, "__notes__"):
        (note,) = caught.value.__notes__
        assert note.startswith("gradcheck: GC201 inplace-saved")
        assert "saved by" in note


def test_a_second_backward_names_the_first_and_the_tie():
    cell = nn.RNNCell(3, 4)

    def train():
        hidden = torch.zeros(2, 4)
        for _ in range(2):
            hidden = cell(torch.randn(2, 3), hidden)
            hidden.sum().backward()

    with watch() as session, pytest.raises(RuntimeError, match="second time"):
        train()
    (finding,) = loud(session.report)
    assert finding.code == "GC401"
    roles = {r.role: r.location.line for r in finding.related}
    assert roles["freed by"] == finding.location.line
    assert roles["tied by"] == finding.location.line - 1


def test_an_error_that_is_caught_inside_gets_a_note_and_is_no_finding():
    with watch() as session, pytest.raises(RuntimeError, match="does not require grad") as caught:
        torch.ones(3).sum().backward()
    if hasattr(caught.value, "add_note"):
        (note,) = caught.value.__notes__
        assert "no tensor that requires a gradient took part" in note
    assert codes(session) == []
    assert session.internal_errors == []


# ------------------------------------------------------------------------------------------------ nothing remains


def doors():
    return (
        torch.autograd._engine_run_backward,
        torch.autograd.graph._engine_run_backward,
        torch.optim.Optimizer.zero_grad,
        nn.Module.zero_grad,
        warnings.showwarning,
        len(OPTIMIZER._global_optimizer_pre_hooks),
        len(OPTIMIZER._global_optimizer_post_hooks),
        torch.Tensor.register_hook,
    )


def test_every_door_is_closed_afterwards_and_after_an_exception():
    before = doors()
    with watch():
        assert doors() != before
    assert doors() == before

    def interrupted():
        never_zeroed(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watch():
        interrupted()
    assert doors() == before


def test_sessions_may_end_in_any_order():
    before = doors()
    one, other = watch(verify=False), watch(verify=False)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert doors() == before


def test_threads_are_watched_each_by_itself():
    found = {}
    ready = threading.Barrier(2)

    def work(name, zeroes):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ready.wait()
        with watch(verify=False) as session:
            for _ in range(20):
                if zeroes:
                    optimizer.zero_grad()
                mean_square(model).backward()
                optimizer.step()
        found[name] = (codes(session), session.report.counts["backwards"], session.internal_errors)

    before = doors()
    threads = [threading.Thread(target=work, args=(str(z), z)) for z in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"True": ([], 20, []), "False": (["GC301"], 20, [])}
    assert doors() == before


def test_an_inner_session_sees_its_own_part():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(verify=False) as outer:
        never_zeroed(1, model, optimizer)
        with watch(verify=False) as inner:
            never_zeroed(1, model, optimizer)
    assert (codes(outer), codes(inner)) == ([], [])
    assert (outer.report.counts["backwards"], inner.report.counts["backwards"]) == (1, 1)


def test_a_session_may_be_entered_again():
    session = watch(verify=False)
    model = nn.Linear(3, 1)
    for _ in range(2):
        with session:
            never_zeroed(2, model)
            model.zero_grad()
    assert [f.count for f in loud(session.report)] == [2]


def test_a_step_that_raises_leaves_no_trace():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        raise KeyError("closure")

    with watch(verify=False) as session:
        with pytest.raises(KeyError):
            optimizer.step(closure)
        for _ in range(3):
            optimizer.zero_grad()
            mean_square(model).backward()
            optimizer.step()
        never_zeroed(2, model, optimizer)
    assert codes(session) == ["GC301"]
    assert session.internal_errors == []


def test_a_graph_freed_before_the_session_is_said_to_be_unseen():
    loss = torch.ones(3, requires_grad=True).exp().sum()
    loss.backward()
    with watch() as session, pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    (finding,) = loud(session.report)
    assert finding.code == "GC401"
    assert "was not seen" in finding.message


def test_a_writer_inside_an_optimizer_is_named_by_the_line_of_its_step():
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    with watch(verify=False) as session:
        out = model(torch.randn(4, 3))
        out.mean().backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="inplace"):
            out.pow(2).mean().backward()
    (finding,) = [f for f in loud(session.report) if f.code == "GC201"]
    assert finding.excerpts[str(finding.location)].lines[3].strip() == "optimizer.step()"
    assert finding.op.startswith("aten::")


def test_nothing_is_kept_alive():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(verify=False) as session:
        for _ in range(3):
            loss = mean_square(model)
            loss.backward()
            optimizer.step()
        watched = [weakref.ref(t) for t in (model[0].weight, model[0].weight.grad, loss, optimizer, model)]
        del model, optimizer, loss
        gc.collect()
        assert [ref() for ref in watched] == [None] * len(watched)
    assert codes(session) == ["GC301"]


def test_memory_of_the_watcher_does_not_grow_with_the_loop():
    import tracemalloc

    with watch(verify=False) as session:
        never_zeroed(50)
        tracemalloc.start()
        never_zeroed(50)
        early = tracemalloc.get_traced_memory()[0]
        never_zeroed(400)
        late = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert codes(session) == ["GC301"]
    assert late - early < 400 * 1000

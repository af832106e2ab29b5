"""``cross_entropy`` is fed probabilities.

Why: ``cross_entropy`` takes logits and applies log-softmax itself. After a softmax of one's own the loss cannot come
    near zero (with ten classes not below 1.46), its gradient is small everywhere and vanishes where the model is
    confidently wrong. Training seems to work and stays far below what the model can do.

Bad::

    import torch
    import torch.nn.functional as F
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 5)
    with watch() as session:
        probabilities = model(torch.randn(4, 3)).softmax(1)
        loss = F.cross_entropy(probabilities, torch.tensor([0, 1, 2, 3]))  # <-
        loss.backward()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Softmax(dim=-1))
    criterion = torch.nn.CrossEntropyLoss()
    with watch() as session:
        out = model(torch.randn(2, 6, 3))
        loss = criterion(out.view(-1, 5), torch.arange(12) % 5)  # <-
        loss.backward()
    report = session.report

Bad::

    import torch
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Softmax(dim=1))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    targets = torch.randn(4, 5).softmax(1)
    with watch() as session:
        criterion(model(torch.randn(4, 3)), targets).backward()  # <-
    report = session.report

Good::

    import torch
    import torch.nn.functional as F
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 5)
    with watch() as session:
        logits = model(torch.randn(4, 3))
        loss = F.cross_entropy(logits, logits.detach().softmax(1))  # soft targets are probabilities
        loss.backward()
    report = session.report

Good::

    import torch
    import torch.nn.functional as F
    from gradcheck_suite import watch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 5)
    with watch() as session:
        logits = model(torch.randn(4, 3))
        loss = F.nll_loss(F.log_softmax(logits, 1), torch.tensor([0, 1, 2, 3]))
        loss.backward()
    report = session.report

Good::

    import torch
    import torch.nn.functional as F
    from gradcheck_suite import watch

    torch.manual_seed(0)
    query, key, value = (torch.randn(4, 3, requires_grad=True) for _ in range(3))
    with watch() as session:
        attention = (query @ key.T).softmax(-1)
        loss = F.cross_entropy(attention @ value, torch.tensor([0, 1, 2, 0]))  # a softmax, but not of the classes
        loss.backward()
    report = session.report

Misses: log-probabilities into ``cross_entropy``, which is one operation too many and changes nothing; probabilities
    that were scaled, masked or mixed before; a sigmoid before a loss that takes logits.
"""

from __future__ import annotations

from ..evidence import Finding, Location, RelatedLocation, Severity
from .registry import Rule, rule

__all__ = ["SoftmaxIntoCrossEntropy"]


@rule("GC701", "softmax-into-cross-entropy", Severity.ERROR)
class SoftmaxIntoCrossEntropy(Rule):
    """Turns a softmax right below the loss's own log-softmax into a finding."""

    @classmethod
    def from_lines(
        cls,
        *,
        loss: Location | None,
        softmax: Location | None,
        softmax_module: str,
        module: str,
        classes: int,
    ) -> Finding:
        """The loss normalises what is normalised already.

        Args:
            loss: the line of the loss.
            softmax: the line of the softmax before it.
            softmax_module: the module in which that softmax ran, or "".
            module: the module in which the loss ran, or "".
            classes: how many classes there are.
        """
        where = f" (in {softmax_module})" if softmax_module else ""
        return cls.finding(
            [
                f"the loss applies log-softmax to what is a softmax already{where}: "
                f"probabilities over {classes} classes, where logits are expected",
            ],
            location=loss,
            related=() if softmax is None else (RelatedLocation("softmax", softmax),),
            module=module,
            op="aten::_log_softmax",
            evidence={"classes": classes},
            hint="feed the logits: leave the softmax out of the model and apply it where probabilities are shown",
        )

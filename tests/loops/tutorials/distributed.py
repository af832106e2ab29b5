"""Distributed training on gloo: one process here, two in processes of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel as DDP

from gradcheck_suite import watch
from gradcheck_suite.evidence import Severity

from .registry import tutorial


class ToyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net1, self.relu, self.net2 = nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 5)

    def forward(self, x):
        return self.net2(self.relu(self.net1(x)))


def demo_basic(rank, world_size, meeting):
    """The loop of the tutorial; returns the trained parameters."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    try:
        torch.manual_seed(0)
        model = ToyModel()
        ddp_model = DDP(model)
        loss_fn = nn.MSELoss()
        optimizer = optim.SGD(ddp_model.parameters(), lr=0.001)
        torch.manual_seed(rank)
        for number in range(4):
            optimizer.zero_grad()
            if number == 2:
                with ddp_model.no_sync():
                    loss_fn(ddp_model(torch.randn(6, 10)), torch.randn(6, 5)).backward()
            outputs = ddp_model(torch.randn(20, 10))
            labels = torch.randn(20, 5)
            loss_fn(outputs, labels).backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]
    finally:
        dist.destroy_process_group()


@tutorial("Getting Started with Distributed Data Parallel (world of one, gloo)", needs=("torch.distributed",))
def ddp_of_one():
    with tempfile.TemporaryDirectory() as folder:
        return demo_basic(0, 1, f"{folder}/meeting")


def run_rank(rank, world_size, folder):
    """What a spawned process runs: the loop unwatched and watched; what came of it is left in a file."""
    torch.set_num_threads(1)
    plain = demo_basic(rank, world_size, f"{folder}/plain")
    with watch(verify=True) as session:
        watched = demo_basic(rank, world_size, f"{folder}/watched")
    said = [str(f) for f in session.report.findings if f.severity > Severity.NOTE]
    said += session.internal_errors
    left = {"plain": plain, "watched": watched, "said": said, "counts": dict(session.report.counts)}
    torch.save(left, Path(folder) / f"rank{rank}.pt")


def ddp_in_processes(world_size=2):
    """Processes that train together; returns what each left behind."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run_rank, args=(world_size, folder), nprocs=world_size)
        return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(world_size)]

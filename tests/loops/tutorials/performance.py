"""Precision, memory and compilation: autocast, scalers, checkpointing, torch.compile, saved-tensor hooks, threads."""

from __future__ import annotations

import contextlib
import threading

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .registry import tutorial


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@tutorial("Automatic Mixed Precision recipe (bfloat16 on the CPU, scaler enabled and disabled)")
def mixed_precision():
    trained = []
    for use_amp in (False, True):
        net, loss_fn = small(), nn.MSELoss()
        opt = optim.SGD(net.parameters(), lr=0.001)
        scaler = torch.amp.GradScaler("cpu", enabled=use_amp, init_scale=8.0, growth_interval=2)
        for _ in range(3):
            with torch.autocast(device_type="cpu", dtype=torch.bfloat16, enabled=use_amp):
                output = net(torch.randn(5, 4))
                loss = loss_fn(output, torch.randn(5, 2))
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.1)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
        trained += net.parameters()
    return trained


@tutorial("Automatic Mixed Precision examples: gradient penalty, accumulation, two optimizers")
def mixed_precision_examples():
    net0, net1 = small(), small()
    optimizer0, optimizer1 = optim.SGD(net0.parameters(), lr=0.01), optim.SGD(net1.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for i in range(4):
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            output0, output1 = net0(torch.randn(5, 4)), net1(torch.randn(5, 4))
            loss0 = F.mse_loss(2 * output0 + 3 * output1, torch.randn(5, 2)) / 2
            loss1 = F.mse_loss(3 * output0 - 5 * output1, torch.randn(5, 2)) / 2
        scaler.scale(loss0).backward(retain_graph=True)
        scaled = torch.autograd.grad(scaler.scale(loss1), list(net1.parameters()), create_graph=True)
        inv_scale = 1.0 / scaler.get_scale()
        grad_norm = sum((g * inv_scale).pow(2).sum() for g in scaled).sqrt()
        scaler.scale(loss1 + grad_norm).backward()
        if (i + 1) % 2 == 0:
            scaler.unscale_(optimizer0)
            scaler.step(optimizer0)
            scaler.step(optimizer1)
            scaler.update()
            optimizer0.zero_grad()
            optimizer1.zero_grad()
    return [*net0.parameters(), *net1.parameters()]


@tutorial("torch.utils.checkpoint: without re-entrance, with it, and in sequence")
def checkpointing():
    trained = []
    for use_reentrant in (False, True):
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Tanh()) for _ in range(3))
        optimizer = optim.Adam(blocks.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            x = torch.randn(5, 4, requires_grad=True)
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=use_reentrant)
            x.pow(2).mean().backward()
            optimizer.step()
        trained += blocks.parameters()
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(4)])
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        x = torch.randn(5, 4, requires_grad=True)
        checkpoint_sequential(model, 2, x, use_reentrant=False).pow(2).mean().backward()
        optimizer.step()
    return [*trained, *model.parameters()]


@tutorial("Introduction to torch.compile (a compiled model, aot_eager)")
def compiled_model():
    model = small()
    opt_model = torch.compile(model, backend="aot_eager")
    optimizer = optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad(True)
        pred = opt_model(torch.randn(5, 4))
        loss = F.cross_entropy(pred, torch.randint(2, (5,)))
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Hooks for autograd saved tensors (packing to NumPy and to half the memory)")
def saved_tensor_hooks():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autograd.graph.save_on_cpu():
            first = model(torch.randn(5, 4)).tanh()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            loss = first.pow(2).mean()
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("Replicas in threads, gradients gathered by hand (DataParallel on the CPU)")
def replicas_in_threads():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        x, y = torch.randn(6, 4), torch.randn(6, 2)
        gathered = [None, None]

        def work(rank, x=x, y=y, gathered=gathered):
            replica = small()
            replica.load_state_dict(model.state_dict())
            F.mse_loss(replica(x[rank::2]), y[rank::2]).backward()
            gathered[rank] = [p.grad for p in replica.parameters()]

        state = torch.get_rng_state()
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        torch.set_rng_state(state)
        optimizer.zero_grad()
        (0.01 * sum(p.pow(2).sum() for p in model.parameters())).backward()
        for p, *grads in zip(model.parameters(), *gathered):
            p.grad += sum(grads) / 2
        optimizer.step()
    return list(model.parameters())


@tutorial("Training beside another training, each in its thread")
def two_trainings_at_a_time():
    models, data = [small(), small()], torch.randn(2, 3, 5, 4)

    def train(rank):
        optimizer = optim.SGD(models[rank].parameters(), lr=0.1, momentum=0.9)
        for x in data[rank]:
            optimizer.zero_grad()
            models[rank](x).pow(2).mean().backward()
            optimizer.step()

    other = threading.Thread(target=train, args=(1,))
    other.start()
    train(0)
    other.join()
    return [p for model in models for p in model.parameters()]


@tutorial("A generator that yields batches and trains between them")
def training_in_a_generator():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def epochs():
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(5, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            yield loss.item()

    with contextlib.closing(epochs()) as losses:
        next(losses)
        next(losses)
    return list(model.parameters())


@tutorial("Channels last, complex numbers and double precision in one training")
def layouts_and_dtypes():
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    spectrum = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
    scale = nn.Parameter(torch.ones(4, dtype=torch.double))
    optimizer = optim.Adam([*conv.parameters(), spectrum, scale], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=False)
        x = torch.randn(2, 3, 10, 10).to(memory_format=torch.channels_last)
        out = conv(x).mean((2, 3))
        wave = torch.fft.irfft(torch.fft.rfft(torch.randn(2, 8)) * spectrum)
        loss = (out.double() * scale).pow(2).mean() + wave.pow(2).mean()
        loss.backward()
        optimizer.step()
    return [*conv.parameters(), spectrum, scale]

"""Threads, processes, signals, event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tests.scores.zoo.kind import kind
from tests.scores.zoo.models import mlp


@kind(both=["thread"])
def model_in_a_thread() -> Any:
    model = mlp()
    with ThreadPoolExecutor(2) as pool:
        there = list(pool.map(model, [torch.ones(1, 8), torch.zeros(1, 8)]))
    return there, model(torch.ones(1, 8))


@kind(op=["thread"])
def ops_in_a_thread() -> Any:
    found: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: found.append(torch.arange(3.0).sin()))
    thread.start()
    thread.join()
    return found, mlp()(torch.ones(1, 8))


@kind()
def thread_without_numbers() -> Any:
    log: list[int] = []
    thread = threading.Thread(target=lambda: log.append(threading.current_thread().daemon), daemon=True)
    thread.start()
    thread.join()
    return log, mlp()(torch.ones(1, 8))


@kind(both=["thread"])
def training_in_a_thread() -> Any:
    model, losses = mlp(), []

    class Worker(threading.Thread):
        def run(self) -> None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = model(torch.ones(1, 8)).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

    worker = Worker()
    worker.start()
    worker.join()
    return losses, list(model.parameters())


@kind()
def forked() -> Any:
    model = mlp()
    model(torch.ones(1, 8))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, repr(model(torch.ones(1, 8)).tolist()).encode())
        finally:
            os._exit(7)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    return text, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), model(torch.zeros(1, 8))


@kind()
def loader_with_workers() -> Any:
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.arange(32.0).reshape(4, 8))
    model = mlp()
    return [model(batch) for (batch,) in DataLoader(data, batch_size=2, num_workers=2)]


@kind()
def pool_of_processes() -> Any:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map(float.__neg__, [1.0, 2.0, 3.0])
    return there, mlp()(torch.ones(1, 8))


@kind(sees="addmm")
def event_loop() -> Any:
    model = mlp()

    async def one(value: float) -> torch.Tensor:
        await asyncio.sleep(0)
        y = model(torch.full((1, 8), value))
        await asyncio.sleep(0)
        return y * 2

    async def all_of_them() -> list[torch.Tensor]:
        return await asyncio.gather(*(one(float(k)) for k in range(3)))

    return asyncio.run(all_of_them())


@kind()
def cell_run_twice() -> Any:
    cell = compile(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x): return x * 2 + 1\n"
        "net = Net()\n"
        "out = net(torch.ones(2))\n",
        "<cell>",
        "exec",
    )
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec(cell, notebook)
    first = notebook["out"]
    exec(cell, notebook)
    return first, notebook["out"]


@kind()
def interrupt_that_is_caught() -> Any:
    model = mlp()
    try:
        model(torch.ones(1, 8))
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        return "caught", model(torch.ones(1, 8))
    return "lost"


@kind()
def signal_handler() -> Any:
    model, log = mlp(), []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: log.append(model(torch.ones(1, 8))))
    try:
        model(torch.ones(1, 8))
        os.kill(os.getpid(), signal.SIGUSR1)
        model(torch.zeros(1, 8))
    finally:
        signal.signal(signal.SIGUSR1, before)
    return log


@kind()
def generator_that_stays_open() -> Any:
    model = mlp()

    def stream() -> Any:
        with torch.no_grad():
            for k in range(3):
                yield model(torch.full((1, 8), float(k)))

    opened = stream()
    return next(opened), next(opened), torch.is_grad_enabled()

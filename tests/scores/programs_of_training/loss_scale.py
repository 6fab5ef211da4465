"""A loss is scaled, and the scale doubled now and then: ``python loss_scale.py [--late-update] [--steps N] [--at STEP]``.

With ``--late-update`` the gradients of that step are divided by the new scale, after a report about a library that did.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--late-update", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--at", type=int, default=36)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(options.steps, 16, 12, generator=generator)
    labels = torch.randint(0, 4, (options.steps, 16), generator=generator)
    scale, good = 1024.0, 0
    for step in range(options.steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[step]), labels[step])
        (loss * scale).backward()
        used = scale
        good += 1
        if good == options.at + 1:
            scale, good = scale * 2, 0
        for parameter in model.parameters():
            parameter.grad.div_(scale if options.late_update else used)
        optimizer.step()
        if step in (35, 36, 37, 99):
            print(step, loss.item())


if __name__ == "__main__":
    main()

"""Training runs in pairs, each with the answer that first principles give, fixed before whydiff saw the pair.

``python -m tests.scores.training [--limit N] [--json FILE] [case …]`` runs `compare_training` on them and counts. ``FIXED``
names the cases whose answer was written down and committed before the first run on any of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tests.scores.training_more import PAIRS, I, P, R, S
from torch import nn
from torch.utils.checkpoint import checkpoint

from whydiff.errors import WhydiffError
from whydiff.studies.training import compare_training

Program = Callable[[], Any]
STEPS, HALF = 8, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A pair and its answer.

    Attributes:
        reference, candidate: programs.
        verdicts: any of them is right.
        causes: groups of codes or families; of each group one must be confirmed or located; none: nothing may be.
        step: of the reference at which numbers part; None: not asked.
        why: the answer in words.
    """

    reference: Program
    candidate: Program
    verdicts: tuple[str, ...]
    causes: tuple[tuple[str, ...], ...]
    why: str
    step: int | None = None


@dataclass
class Setup:
    """A small training program with places where it can be changed."""

    steps: int = STEPS
    model: Callable[[], nn.Module] = field(default=lambda: mlp())
    optimizer: Callable[[nn.Module], Any] = field(default=lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2))
    schedule: Callable[[Any], Any] | None = None
    loss: Callable[[nn.Module, Any, Any], Any] = field(default=lambda m, x, y: F.cross_entropy(m(x), y))
    batch: Callable[[int], int] = field(default=lambda step: step)
    graded: Callable[[nn.Module, int], None] | None = None
    begin: Callable[[int, nn.Module], None] | None = None
    stepped: Callable[[nn.Module, Any, int], None] | None = None
    scale: Callable[[int], float] | None = None
    zero: bool = True

    def __call__(self) -> None:
        """Train from the beginning."""
        self.run(*self.made(), 0, self.steps)

    def made(self) -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(0)
        model = self.model()
        optimizer = self.optimizer(model)
        schedule = self.schedule(optimizer) if self.schedule is not None else None
        torch.manual_seed(7)
        return model, optimizer, schedule

    def run(self, model: nn.Module, optimizer: Any, schedule: Any, first: int, last: int, ema: Any = None) -> None:
        inputs, labels = data(self.steps)
        for step in range(first, last):
            if self.begin is not None:
                self.begin(step, model)
            if self.zero:
                optimizer.zero_grad()
            at = self.batch(step)
            loss = self.loss(model, inputs[at], labels[at])
            (loss if self.scale is None else loss * self.scale(step)).backward()
            if self.graded is not None:
                self.graded(model, step)
            if self.stepped is not None:
                self.stepped(model, optimizer, step)
            else:
                optimizer.step()
            if schedule is not None:
                schedule.step()
            if ema is not None:
                with torch.no_grad():
                    for mean, parameter in zip(ema.parameters(), model.parameters(), strict=True):
                        mean.lerp_(parameter, 0.5)

    def resumed(self, restored: str, change: Callable[[dict[str, Any]], None] | None = None, shift: int = 0) -> Program:
        """From half-way on; ``restored``: o(ptimizer), s(chedule), r(andom state), e(ma instead of the weights)."""
        state: dict[str, Any] = {}

        def earlier() -> None:
            model, optimizer, schedule = self.made()
            ema = copy.deepcopy(model)
            self.run(model, optimizer, schedule, 0, HALF, ema)
            state["m"] = copy.deepcopy((ema if "e" in restored else model).state_dict())
            state["o"] = copy.deepcopy(optimizer.state_dict())
            state["s"] = schedule.state_dict() if schedule is not None else {}
            state["r"] = torch.get_rng_state()

        def program() -> None:
            saved = copy.deepcopy(state)
            if change is not None:
                change(saved)
            model, optimizer, schedule = self.made()
            model.load_state_dict(saved["m"])
            if "o" in restored:
                optimizer.load_state_dict(saved["o"])
            if "s" in restored and schedule is not None:
                schedule.load_state_dict(saved["s"])
            if "r" in restored:
                torch.set_rng_state(saved["r"])
            self.run(model, optimizer, schedule, HALF - shift, self.steps - shift)

        before = torch.get_rng_state()
        earlier()
        torch.set_rng_state(before)
        return program


def data(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(steps, 16, 12, generator=generator), torch.randint(0, 4, (steps, 16), generator=generator)


def mlp(dropout: float = 0.0, norm: float | None = None) -> nn.Sequential:
    middle = [nn.BatchNorm1d(24, momentum=norm)] if norm is not None else []
    return nn.Sequential(nn.Linear(12, 24), *middle, nn.GELU(), nn.Dropout(dropout), nn.Linear(24, 4))


def dropping() -> nn.Module:
    return mlp(dropout=0.2)


class Tied(nn.Module):
    """Two maps that share a weight, or do not."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.second.weight.data.copy_(self.first.weight.data)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))  # type: ignore[no-any-return]


class Checkpointed(nn.Module):
    """A block with dropout whose forward is run again in the backward."""

    def __init__(self, preserved: bool | None) -> None:
        super().__init__()
        self.preserved = preserved
        self.block = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Dropout(0.2))
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.preserved is None:
            return self.head(self.block(x))  # type: ignore[no-any-return]
        hidden = checkpoint(self.block, x, use_reentrant=False, preserve_rng_state=self.preserved)
        return self.head(hidden)  # type: ignore[no-any-return]


def adam(**options: Any) -> Callable[[nn.Module], Any]:
    return lambda m: torch.optim.AdamW(m.parameters(), **({"lr": 1e-2} | options))


def sgd(**options: Any) -> Callable[[nn.Module], Any]:
    return lambda m: torch.optim.SGD(m.parameters(), **({"lr": 0.1} | options))


def warm(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 6))


def warm_late(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 2) / 6))


def forget(saved: dict[str, Any]) -> None:
    saved["o"]["state"] = {}


def count_anew(saved: dict[str, Any]) -> None:
    for state in saved["o"]["state"].values():
        state["step"] = torch.tensor(0.0)


def rate_anew(saved: dict[str, Any]) -> None:
    for group in saved["o"]["param_groups"]:
        group["lr"] = 3e-2


def clipped(model: nn.Module, step: int) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)


def clipped_by_value(model: nn.Module, step: int) -> None:
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.3)


def unscaled(model: nn.Module, by: float) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(by)


def unscaled_then_clipped(model: nn.Module, step: int) -> None:
    unscaled(model, 1024.0)
    clipped(model, step)


def clipped_then_unscaled(model: nn.Module, step: int) -> None:
    clipped(model, step)
    unscaled(model, 1024.0)


def late(step: int) -> float:
    return 1024.0 if step < 5 else 2048.0


def by_hand(after: bool) -> Callable[[nn.Module, Any, int], None]:
    """Gradient descent with decay before or after the gradient's part."""

    def update(model: nn.Module, optimizer: Any, step: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                if not after:
                    parameter.mul_(1 - 0.1 * 0.3)
                parameter.sub_(0.1 * parameter.grad)
                if after:
                    parameter.mul_(1 - 0.1 * 0.3)

    return update


def momentum_by_hand(model: nn.Module, optimizer: Any, step: int) -> None:
    """``torch.optim.SGD``'s recurrence, buffers begun with zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            buffer = optimizer.state[parameter].setdefault("b", torch.zeros_like(parameter))
            buffer.mul_(0.9).add_(parameter.grad)
            parameter.add_(buffer, alpha=-0.1)


def halves(first: int) -> Callable[[nn.Module, Any, Any], Any]:
    """The same mean as a sum of two halves of the batch, in one order or the other."""

    def loss(model: nn.Module, x: Any, y: Any) -> Any:
        parts = [F.cross_entropy(model(x[s]), y[s], reduction="sum") for s in (slice(None, 8), slice(8, None))]
        return (parts[first] + parts[1 - first]) / len(y)

    return loss


def accumulated(parts: int) -> Callable[[nn.Module, Any, Any], Any]:
    """A batch as a whole, or cut into equal parts that are added up."""

    def loss(model: nn.Module, x: Any, y: Any) -> Any:
        cut = [F.cross_entropy(model(a), b) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)]
        return torch.stack(cut).mean()

    return loss


def narrow(model: nn.Module, x: Any, y: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(x).float(), y)


def evaluating(step: int, model: nn.Module) -> None:
    model.train(step < 3)


def two_networks(rate: float, second: bool = True) -> Program:
    """Two optimizers take turns, as in adversarial training."""

    def program() -> None:
        torch.manual_seed(0)
        one, other = nn.Linear(6, 8), nn.Linear(8, 1)
        first = torch.optim.Adam(one.parameters(), lr=1e-3)
        then = torch.optim.Adam(other.parameters(), lr=rate)
        noise = torch.randn(STEPS, 16, 6)
        for step in range(STEPS):
            then.zero_grad()
            F.softplus(other(one(noise[step]).detach())).mean().backward()
            if second:
                then.step()
            first.zero_grad()
            F.softplus(-other(one(noise[step]))).mean().backward()
            first.step()

    return program


def grouped(decayed: bool) -> Callable[[nn.Module], Any]:
    """Decay on the weights only, or on the biases too."""

    def optimizer(model: nn.Module) -> Any:
        weights = [p for p in model.parameters() if p.ndim > 1]
        biases = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.1 if decayed else 0.0}]
        return torch.optim.AdamW(groups, lr=1e-2)

    return optimizer


def head_only(model: nn.Module) -> Any:
    return torch.optim.AdamW([p for name, p in model.named_parameters() if not name.startswith("0.")], lr=1e-2)


def loader(seed: int | None) -> Program:
    """Batches from a `DataLoader` that shuffles with a generator of its own."""

    def program() -> None:
        inputs, labels = data(4)
        torch.manual_seed(0)
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(3 if seed is None else seed)
        dataset = torch.utils.data.TensorDataset(inputs.flatten(0, 1), labels.flatten())
        for x, y in torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True, generator=generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return program


PLAIN, DROP, WARM = Setup(), Setup(model=dropping), Setup(schedule=warm)
BOTH = Setup(model=dropping, schedule=warm)
SGD = Setup(optimizer=sgd(momentum=0.9))


def case(
    reference: Program, candidate: Program, verdicts: tuple[str, ...], causes: str, why: str, step: int | None = None
) -> Case:
    """``causes``: groups are separated by ``+``, alternatives within one by spaces."""
    groups = tuple(tuple(group.split()) for group in causes.split("+") if group.strip())
    return Case(reference=reference, candidate=candidate, verdicts=verdicts, causes=groups, why=why, step=step)


CASES: dict[str, Callable[[], Case]] = {
    "moments_lost": lambda: case(PLAIN, PLAIN.resumed("o", forget), S, "TR002", "Adam's moments are empty", 5),
    "count_anew": lambda: case(PLAIN, PLAIN.resumed("o", count_anew), S, "TR002", "Adam's count begins at 0", 5),
    "momentum_lost": lambda: case(SGD, SGD.resumed("o", forget), S, "TR002", "SGD's buffers are empty", 5),
    "rate_anew": lambda: case(PLAIN, PLAIN.resumed("o", rate_anew), S, "TR003", "another learning rate", 5),
    "schedule_lost": lambda: case(WARM, WARM.resumed("o"), S, "TR003", "the warm-up begins anew"),
    "random_lost": lambda: case(DROP, DROP.resumed("o"), S, "MD002", "dropout draws other numbers", 4),
    "ema_for_weights": lambda: case(PLAIN, PLAIN.resumed("oe"), S, "ST001", "the average was loaded", 4),
    "data_behind": lambda: case(PLAIN, PLAIN.resumed("o", shift=1), S, "IN", "the data begins a batch early", 4),
    "right_resume": lambda: case(BOTH, BOTH.resumed("osr"), I, "", "everything was restored"),
    "right_resume_sgd": lambda: case(SGD, SGD.resumed("o"), I, "", "nothing is drawn, so no state is missing"),
    "schedule_and_random_lost": lambda: case(
        BOTH, BOTH.resumed("o"), S, "TR003 + MD002", "the warm-up and the generator begin anew", 4
    ),
    "weights_and_moments_lost": lambda: case(
        PLAIN, PLAIN.resumed("oe", forget), S, "ST001 + TR002", "the average was loaded, and no moments", 4
    ),
    "adam_for_adamw": lambda: case(
        Setup(optimizer=adam(weight_decay=0.1)),
        Setup(optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=1e-2, weight_decay=0.1)),
        S,
        "TR003",
        "decay in the gradient instead of beside it",
        1,
    ),
    "second_beta": lambda: case(PLAIN, Setup(optimizer=adam(betas=(0.9, 0.95))), S, "TR003", "0.95 for 0.999", 2),
    "eps": lambda: case(PLAIN, Setup(optimizer=adam(eps=1e-6)), S, "TR003", "1e-6 for 1e-8", 1),
    "nesterov": lambda: case(SGD, Setup(optimizer=sgd(momentum=0.9, nesterov=True)), S, "TR003", "Nesterov", 1),
    "decay_on_biases": lambda: case(
        Setup(optimizer=grouped(False)), Setup(optimizer=grouped(True)), S, "TR003", "biases are decayed too", 1
    ),
    "clip_missing": lambda: case(Setup(graded=clipped), PLAIN, S, "FO TR", "gradients are not clipped", 0),
    "clip_by_value": lambda: case(
        Setup(graded=clipped), Setup(graded=clipped_by_value), S, "FO TR", "each element is clipped instead", 0
    ),
    "clip_before_unscale": lambda: case(
        Setup(graded=unscaled_then_clipped, scale=lambda step: 1024.0),
        Setup(graded=clipped_then_unscaled, scale=lambda step: 1024.0),
        S,
        "FO TR",
        "scaled gradients are clipped",
        0,
    ),
    "unscaled_by_the_next_scale": lambda: case(
        Setup(graded=lambda m, step: unscaled(m, late(step)), scale=late, optimizer=sgd()),
        Setup(graded=lambda m, step: unscaled(m, late(step + 1)), scale=late, optimizer=sgd()),
        S,
        "FO003 TR",
        "the scale was doubled before the division",
        4,
    ),
    "gradients_kept": lambda: case(
        Setup(optimizer=sgd()), Setup(optimizer=sgd(), zero=False), S, "FO ST IN TR", "zero_grad is missing", 1
    ),
    "layer_not_in_optimizer": lambda: case(
        PLAIN, Setup(optimizer=head_only), S, "FO TR ST", "the first layer is not updated", 1
    ),
    "decay_after_update": lambda: case(
        Setup(stepped=by_hand(False)), Setup(stepped=by_hand(True)), S, "FO TR", "the new weights are decayed", 1
    ),
    "foreach": lambda: case(
        Setup(optimizer=adam(foreach=False)), Setup(optimizer=adam(foreach=True)), R, "", "the same update by lists"
    ),
    "fused": lambda: case(
        Setup(optimizer=adam(foreach=False)), Setup(optimizer=adam(fused=True)), R, "", "the same update in one kernel"
    ),
    "momentum_by_hand": lambda: case(
        SGD, Setup(optimizer=sgd(momentum=0.9), stepped=momentum_by_hand), R, "", "the same recurrence by hand"
    ),
    "halves_in_other_order": lambda: case(
        Setup(loss=halves(0)), Setup(loss=halves(1)), R, "", "the same sum in the other order"
    ),
    "accumulated": lambda: case(
        Setup(loss=accumulated(1)), Setup(loss=accumulated(4)), R, "", "the same mean over four equal parts"
    ),
    "checkpointed": lambda: case(
        Setup(model=lambda: Checkpointed(None)), Setup(model=lambda: Checkpointed(True)), I, "", "the forward again"
    ),
    "checkpointed_other_draws": lambda: case(
        Setup(model=lambda: Checkpointed(True)),
        Setup(model=lambda: Checkpointed(False)),
        S,
        "MD002 ST006 FO",
        "the repeated forward drops other units",
        0,
    ),
    "smoothed": lambda: case(
        PLAIN,
        Setup(loss=lambda m, x, y: F.cross_entropy(m(x), y, label_smoothing=0.1)),
        S,
        "FO TR",
        "the labels are smoothed",
        0,
    ),
    "more_dropout": lambda: case(
        DROP, Setup(model=lambda: mlp(dropout=0.4)), S, "ST006 MD002 FO", "another rate of dropout", 0
    ),
    "evaluation_mode": lambda: case(DROP, Setup(model=dropping, begin=evaluating), S, "MD001", "train() is missing", 3),
    "norm_momentum": lambda: case(
        Setup(model=lambda: mlp(norm=0.1)), Setup(model=lambda: mlp(norm=0.01)), S, "ST006 FO", "another momentum"
    ),
    "other_order_from_step_3": lambda: case(
        PLAIN, Setup(batch=lambda step: step if step < 3 else 10 - step), S, "IN", "the data comes in another order", 3
    ),
    "autocast": lambda: case(PLAIN, Setup(loss=narrow), P, "PR", "bfloat16 products", 0),
    "untied": lambda: case(
        Setup(model=lambda: Tied(True)), Setup(model=lambda: Tied(False)), S, "ST FO", "the shared weight is two", 0
    ),
    "warm_up_late": lambda: case(WARM, Setup(schedule=warm_late), S, "TR003", "the schedule is a step ahead", 1),
    "second_network_rate": lambda: case(
        two_networks(1e-3), two_networks(1.01e-3), S, "TR003", "one of two optimizers has another rate"
    ),
    "loader": lambda: case(loader(None), loader(3), I, "", "the same seed of the sampler"),
    "loader_seed": lambda: case(loader(None), loader(4), S, "IN MD002", "another seed of the sampler", 0),
}
FIXED = tuple(CASES)


def _further(name: str) -> Callable[[], Case]:
    make, verdicts, causes, why, step = PAIRS[name]
    return lambda: case(*make(), verdicts, causes, why, step)


CASES |= {name: _further(name) for name in PAIRS}


def judged(name: str) -> dict[str, Any]:
    """What whydiff says of a case, and what is wrong with it."""
    one = CASES[name]()
    began = time.perf_counter()
    try:
        found = compare_training(one.reference, one.candidate)
    except WhydiffError as error:
        return {"case": name, "crashed": str(error), "seconds": time.perf_counter() - began}
    causes = found.diagnosis.causes if found.diagnosis is not None else ()
    told = [cause.code for cause in causes if cause.status in ("confirmed", "located")]
    proven = [cause.code for cause in causes if cause.status == "confirmed"]
    allowed = tuple(code for group in one.causes for code in group)
    return {
        "case": name,
        "verdict": str(found.verdict),
        "verdict_right": str(found.verdict) in one.verdicts,
        "step": found.parting.step if found.parting is not None else None,
        "step_right": one.step is None or (found.parting is not None and found.parting.step == one.step),
        "told": told,
        "cause_right": all(any(code.startswith(group) for code in told) for group in one.causes),
        "proven": proven,
        "proven_wrongly": []
        if "rounding" in one.verdicts
        else [c for c in proven if not c.startswith(allowed or ("-",))],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run the cases and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in (options.names or list(CASES))[: options.limit]:
        rows.append(judged(name))
        print(rows[-1], flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for what in ("verdict_right", "cause_right", "step_right"):
        print(what, sum(bool(row.get(what)) for row in rows), "of", len(rows))
    print("proven wrongly", [row["case"] for row in rows if row.get("proven_wrongly")])


if __name__ == "__main__":
    main()

"""A training program that is run up to a step, and watched in that step only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import called
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.torch.interventions import applied, supported
from whydiff.capturing.adapters.torch.reading import READER
from whydiff.capturing.adapters.torch.run import Run, _copies
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.adapters.torch.state import Roots
from whydiff.capturing.adapters.torch.surroundings import unseen
from whydiff.capturing.adapters.torch.training.following import Following, models, settled
from whydiff.errors import UsageError
from whydiff.records import Intervention

Inside = Callable[[Roots], AbstractContextManager[Any]]


class _Reached(BaseException):
    """The step has ended: the rest of the program is not run. No ``except Exception`` of the program's stops it."""


class Window(Following):
    """Some steps of a program, from where it first enters its model in the first to the end of the last.

    Args:
        program: runs all steps.
        first, last: numbers of steps.
    """

    def __init__(self, program: Callable[[], Any], first: int, last: int) -> None:
        super().__init__()
        self._program, self._first, self._last = program, first, last
        self._losses: dict[int, list[torch.Tensor]] = {}
        self._before: list[torch.Tensor] = []
        self._stack = ExitStack()
        self._inside: Inside | None = None
        self._finish: Callable[[Any], Any] = lambda found: found
        self.begun = False

    def __call__(self) -> dict[str, Any]:
        """Losses of the steps, and parameters after them."""
        return Window(self._program, self._first, self._last).run(None)  # type: ignore[no-any-return]

    def run(self, inside: Inside | None, finish: Callable[[Any], Any] = lambda found: found) -> Any:
        """The same, with something in force during the steps.

        Args:
            inside: given the models that were found by then, what is entered as the first step begins.
            finish: given the outcome while that is still in force; what it returns is returned.

        Raises:
            UsageError: the program takes no such step, or enters no model in it.
        """
        self._inside, self._finish = inside, finish
        entered = torch.nn.Module.__call__
        outcome: list[Any] = []

        def enter(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._entering(module)
            return entered(module, *args, **kwargs)

        torch.nn.Module.__call__ = enter  # type: ignore[method-assign]
        try:
            with settled(), self, self._stack:
                try:
                    self._program()
                    self._ready = self._ready and not self._by_optimizer
                    if self.begun and self.number == self._last:
                        self.ended()
                except _Reached:
                    outcome.append(self._finish(self._given()))
        finally:
            torch.nn.Module.__call__ = entered  # type: ignore[method-assign]
        if not outcome:
            raise UsageError(
                "The program does not take this step.", actual=f"{self.number} steps", expected=f"step {self._last}"
            )
        return outcome[0]

    def _entering(self, module: torch.nn.Module) -> None:
        if not torch.is_grad_enabled() or torch._C._current_autograd_node() is not None:
            return
        self.updated_by_hand()
        if self.begun or self.number < self._first or not any(p.requires_grad for p in module.parameters()):
            return
        self.begun = True
        mine = {id(p) for p in module.parameters()}
        if not mine & {id(p) for _, root in self.roots for p in root.parameters()}:
            self.roots = models(lambda p: id(p) in mine)
        if self._inside is not None:
            self._stack.enter_context(self._inside(self.roots))

    def _note(self) -> None:
        super()._note()
        with unseen():
            self._before = [tensor.detach().clone() for _, tensor in self.parameters()] if self.begun else []

    def _changed(self) -> bool:
        """By content while ops are watched, which may write without a trace in the counters of versions."""
        if not self.begun:
            return super()._changed()
        now = [tensor for _, tensor in self.parameters()]
        with unseen():  # no op of the program's
            return len(now) != len(self._before) or not all(map(torch.equal, now, self._before))

    def _given(self) -> dict[str, Any]:
        weights = {name: tensor.detach().clone() for name, tensor in self.parameters()}
        return {"losses": [_total(losses) for losses in self._losses.values()], "weights": weights}

    def differentiated(self, losses: tuple[torch.Tensor, ...]) -> None:
        if self.begun:
            self._losses.setdefault(self.number, []).extend(loss.detach() for loss in losses)

    def ended(self) -> None:
        if self.begun and self.number >= self._last:
            raise _Reached


class StepRun(Run):
    """A live run of some steps of a program; experiments run the program again up to them.

    Args:
        program: runs all steps; called without arguments.
        first, last: numbers of steps.
    """

    def __init__(self, program: Callable[[], Any], first: int, last: int) -> None:
        self._window = Window(program, first, last)
        super().__init__(program, (), {})
        self.target = self._window
        self._known: Roots = []

    def _new(self) -> Window:
        return Window(self._window._program, self._window._first, self._window._last)

    def _instrumented(self, session: Session) -> None:
        def inside(roots: Roots) -> AbstractContextManager[Any]:
            self._known = roots
            session._known_roots = list(roots)
            return session

        def finish(found: Any) -> Any:
            session.returned(found)
            return found

        with self._beginning():
            try:
                self._observed = outputs_of(called(lambda: self._new().run(inside, finish), (), {}), READER)
            finally:
                session.restore()

    def plain(
        self, interventions: Iterable[Intervention] = (), donor: contract.Executor | None = None
    ) -> list[tuple[str, torch.Tensor]]:
        """Run up to the last step, under interventions that are in force during the steps only."""
        wanted = list(interventions)

        def inside(roots: Roots) -> AbstractContextManager[Any]:
            return applied(wanted, roots, (), (), {}, self.target, donor)

        with self._beginning():
            return _copies(called(lambda: self._new().run(inside), (), {}))

    def supports(self, intervention: Intervention) -> bool:
        """Whether it can be in force during the steps."""
        return supported(intervention, self._known, ())

    def lifted(self, dtype: contract.Precision, interventions: Iterable[Intervention] = ()) -> None:
        """Only the steps are of interest, and what comes before them would be another run."""
        return None


def _total(losses: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the backward passes of one step were called on, added up: micro-batches have parts of one loss."""
    first, *others = losses
    return first.clone() if not others else sum((loss.sum().to(first.device) for loss in others), first.sum())

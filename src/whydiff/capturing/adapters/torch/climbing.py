"""What a program compiles with `torch.compile`, compiled anew: up to a rung, or without a part of the compiler.

The program's own compiled code stays as it is: what is compiled here is traced apart (`sharing`). Caches of compiled
graphs keep the compiler's settings apart, and serve where only settings are changed; of applications that are left out
they do not know, and are left out too.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from whydiff.capturing.adapters.contract import Part, Rung, Way
from whydiff.capturing.adapters.torch.compiled import can_be_changed, regions_are_kept_apart, room_for_more
from whydiff.capturing.adapters.torch.sharing import traces_now

EAGER, TRACED, AOT, DECOMPOSED, INDUCTOR = "eager", "traced", "aot_eager", "aot_eager_decomp_partition", "inductor"
LAST = "as given"
"""Any other rung is the compiler as the program asks for it."""

_FUNCTORCH, _CONFIG = "torch._functorch.config", "torch._inductor.config"
_ANEW: Mapping[str, Mapping[str, Any]] = {
    _FUNCTORCH: {"enable_autograd_cache": False},
    _CONFIG: {"fx_graph_cache": False, "fx_graph_remote_cache": False},
}
_SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "cse": {_FUNCTORCH: {"cse": False}},
    "excess-precision": {_CONFIG: {"emulate_precision_casts": True}},
    "random": {_CONFIG: {"fallback_random": True}},
    "contraction": {
        _CONFIG: {
            "cpp.enable_floating_point_contract_flag": "off",
            "cpp.enable_unsafe_math_opt_flag": False,
            "use_fast_math": False,
        }
    },
    "constant-folding": {_CONFIG: {"joint_graph_constant_folding": False}},
    "fusion": {_CONFIG: {"max_fusion_size": 1, "epilogue_fusion": False}},
    "layout": {_CONFIG: {"layout_optimization": False, "comprehensive_padding": False}},
}
"""Part → module → settings under which the compiler does not do it; what a version does not know is left out."""
_COUNTED: Mapping[str, tuple[str, str]] = {
    "decomposition": (DECOMPOSED, "decomposition"),
    "lowerings": (INDUCTOR, "lowerings"),
    "pre_grad_passes": (INDUCTOR, "pre_grad_passes"),
    "joint_graph_passes": (INDUCTOR, "joint_graph_passes"),
    "post_grad_passes": (INDUCTOR, "post_grad_passes"),
}
"""Part → what `torch._inductor.compiler_bisector` calls it."""

_OPERATOR = re.compile(r"<OpOverload\(op='(.*)', overload='(.*)'\)>")
_RANDOM = Part("random", "random numbers of its own")

_TRACED = Rung(TRACED, "Python is traced (dynamo)")
_AOT = Rung(AOT, "the graph is made functional, and its backward is traced (AOTAutograd)")
_DECOMPOSED = Rung(
    DECOMPOSED,
    "ops are decomposed, and the graph is split (decompositions and partitioner)",
    (
        _RANDOM,
        Part("decomposition", "decompositions of ops", counted=True),
        Part("cse", "joining of equal expressions"),
    ),
)
_INDUCTOR = Rung(
    INDUCTOR,
    "the graph is rewritten and code is generated (inductor)",
    (
        Part("excess-precision", "16-bit values that are kept wide"),
        _RANDOM,
        Part("contraction", "products and sums in one instruction, and unsafe mathematics"),
        Part("lowerings", "code that is generated for ops", counted=True),
        Part("fusion", "fusion of ops into one kernel", group="lowerings"),
        Part("pre_grad_passes", "passes on the traced graph", counted=True),
        Part("constant-folding", "folding of constants"),
        Part("joint_graph_passes", "passes on the joint graph", counted=True),
        Part("post_grad_passes", "passes on the graph that is lowered", counted=True),
        Part("layout", "layouts and padding of its own"),
    ),
)


class Climbing:
    """A block in which compiled functions are compiled in a given way, apart from all other compiled code.

    Inside `sharing` what is compiled was traced once.

    Args:
        way: up to which rung, and without what.

    Attributes:
        backends: what compiles, as the program asks for it, in the order of calls, each once.
        done: what the counted part was done to where it was left out, and before.
        counts: whether a counted part is left out.
    """

    def __init__(self, way: Way) -> None:
        known = (EAGER, TRACED, AOT, DECOMPOSED)
        self.way = way if way.rung in known else replace(way, rung=LAST)
        self.backends, self.done = list[Any](), list[str]()
        self.counts = any(name in _COUNTED for name in way.without)
        self._traces = traces_now()
        self._stack = ExitStack()

    def __enter__(self) -> Climbing:
        if not can_be_changed():
            return self
        frames: Any = sys.modules["torch._dynamo"].eval_frame
        self._chosen = frames._callback_from_stance
        with ExitStack() as stack:  # a version without one of these parts leaves nothing behind
            stack.enter_context(room_for_more())
            counted = next((_COUNTED[name] for name in self.way.without if name in _COUNTED), None)
            settings_of = [_SETTINGS.get(name, {}) for name in self.way.without]
            for module, settings in _merged(*([] if counted is None else [_ANEW]), *settings_of).items():
                stack.enter_context(_set(module, settings))
            if counted is not None:
                stack.enter_context(self._left_out(*counted))
            if self.way.rung != EAGER:
                stack.enter_context(self._traces.used_by(self))
            frames._callback_from_stance = self._callback
            stack.callback(setattr, frames, "_callback_from_stance", self._chosen)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def _callback(self, callback: Any) -> Any:
        """What is asked at every call of a compiled function: who compiles it."""
        if callback in (None, False):
            return self._chosen(callback)
        frames: Any = sys.modules["torch._dynamo"].eval_frame
        if self._traces.owns(callback):
            return callback
        backend = frames.innermost_backend(callback)
        if name_of(backend) == compiled_alone.__name__:
            return callback
        if not any(backend is known for known in self.backends):
            self.backends.append(backend)
        if self.way.rung == EAGER:
            return None
        _in_region(self._traces.region)
        return self._traces.callback(backend, frames._create_wrapped_callback)

    def compiler(self, backend: Any) -> Callable[[Any, Any], Any]:
        """What compiles a graph in this way, in the place of a backend."""
        if self.way.rung == TRACED:
            return lambda graph, _: graph.forward
        chosen = backend
        if self.way.rung in (AOT, DECOMPOSED):
            chosen = importlib.import_module("torch._dynamo.backends.registry").lookup_backend(self.way.rung)
        return lambda graph, inputs: chosen(graph, inputs)

    @contextmanager
    def _left_out(self, backend: str, subsystem: str) -> Iterator[None]:
        """Let the first applications of a part be, and leave the others out; remember what they are."""
        bisector: Any = importlib.import_module("torch._inductor.compiler_bisector").CompilerBisector

        def disabled(asked: str, part: str, says: Callable[[], str] | None = None) -> bool:
            if (asked, part) != (backend, subsystem):
                return False
            self.done.append(_named(says) if says is not None else "")
            return self.done[-1] == self.way.only if self.way.only else len(self.done) > self.way.keep

        before = vars(bisector)["disable_subsystem"]
        bisector.disable_subsystem = staticmethod(disabled)
        try:
            yield
        finally:
            bisector.disable_subsystem = before


def _named(says: Callable[[], str]) -> str:
    """What a part is done to: an operator as ``aten.add.Tensor``, else as the compiler calls it."""
    return _OPERATOR.sub(r"\1.\2", says())


def compiled_alone(graph: Any, inputs: Any) -> Any:
    """Inductor, for what an experiment itself compiles: no way of compiling the program concerns it."""
    return importlib.import_module("torch._inductor.compile_fx").compile_fx(graph, inputs)


def rungs(backends: list[Any]) -> tuple[Rung, ...]:
    """What these backends do, step by step; the last rung is the compiler as the program asks for it."""
    if not backends:
        return ()
    names = [name_of(backend) for backend in backends]
    if all(_is_inductor(backend) for backend in backends):
        return (_TRACED, _AOT, _asked(_DECOMPOSED), _asked(_INDUCTOR))
    known = {EAGER: (), AOT: (_TRACED,), DECOMPOSED: (_TRACED, _AOT)}
    if len(names) == 1 and names[0] in known:
        last = {EAGER: _TRACED, AOT: _AOT, DECOMPOSED: _DECOMPOSED}[names[0]]
        return (*known[names[0]], _asked(last))
    return (_TRACED, _AOT, Rung(" and ".join(names), "the program's own backend compiles the graph"))


def _asked(rung: Rung) -> Rung:
    """A rung with the parts that the compiler, as it is set now, does at all."""
    return replace(rung, parts=tuple(part for part in rung.parts if part.counted or _does(part.name)))


def _does(part: str) -> bool:
    for module, settings in _SETTINGS[part].items():
        now = importlib.import_module(module).get_config_copy()
        if any(name in now and now[name] != value for name, value in settings.items()):
            return True
    return False


def name_of(backend: Any) -> str:
    """A backend's name: as it is registered, or the function's."""
    named = getattr(backend, "compiler_name", "") or getattr(backend, "__qualname__", "") or type(backend).__qualname__
    return str(named)


def _is_inductor(backend: Any) -> bool:
    return name_of(backend) == INDUCTOR or str(getattr(backend, "__module__", "")).startswith("torch._inductor")


def _in_region(number: int) -> None:
    """What is compiled from now on until the call of a compiled function ends belongs to a region of its own."""
    if regions_are_kept_apart():
        torch._C._dynamo.eval_frame.set_eval_frame_isolate_recompiles_id(number)


def _merged(*given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for one in given:
        for module, settings in one.items():
            found.setdefault(module, {}).update(settings)
    return found


@contextmanager
def _set(module: str, settings: Mapping[str, Any]) -> Iterator[None]:
    config: Any = importlib.import_module(module)
    known = config.get_config_copy()
    with config.patch({name: value for name, value in settings.items() if name in known}):
        yield


__all__ = ["EAGER", "LAST", "Climbing", "compiled_alone", "name_of", "rungs"]

"""Everything that whydiff takes from jax beyond its documented surface, in one place.

Tried with jax 0.10.2 and 0.11.x. A capture is a `jax.core.Trace`: JAX hands it every primitive that the program
binds outside of a transformation, with concrete values, exactly as it would hand them to its own evaluation.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
from jax._src import core, xla_bridge
from jax._src import source_info_util as source
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Primitive, primitives
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import Literal as Literal

from whydiff.errors import ReplayError

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters under which call-like primitives keep the program that they call."""

INLINED = frozenset(
    {
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "custom_lin",
    }
)
"""Primitives that only call their jaxpr with their own operands: looked into, never recorded."""

source.register_exclusion(str(Path(__file__).parent))  # not the user's code


def called(primitive: str, params: Mapping[str, Any]) -> tuple[Jaxpr, Sequence[Any]] | None:
    """(jaxpr, its constants) of a primitive that only calls it; None for every other primitive."""
    if primitive not in INLINED:
        return None
    for name in CALLS:
        inner = params.get(name)
        if isinstance(inner, ClosedJaxpr):
            return inner.jaxpr, inner.consts
        if isinstance(inner, Jaxpr):
            return inner, ()
    return None


def programs_in(params: Mapping[str, Any]) -> list[tuple[Jaxpr, Sequence[Any]]]:
    """(jaxpr, its constants) of every program that a primitive carries (a call, a loop, a kernel …)."""
    values = [item for v in params.values() for item in (v if isinstance(v, (tuple, list)) else [v])]
    closed = [(item.jaxpr, item.consts) for item in values if isinstance(item, ClosedJaxpr)]
    return closed + [(item, ()) for item in values if isinstance(item, Jaxpr)]


def bind(primitive: Primitive, values: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """Execute (or stage) one primitive with a recorded equation's parameters."""
    given = primitive.get_bind_params(dict(params))
    if isinstance(given, tuple):  # before jax 0.10: (functions, parameters)
        functions, given = given
        values = [*functions, *values]
    out = primitive.bind(*values, **given)
    return list(out) if primitive.multiple_results else [out]


def staged(primitive: Primitive, args: Sequence[Any], params: Mapping[str, Any]) -> ClosedJaxpr:
    """A program of one equation."""
    return jax.make_jaxpr(lambda *given: bind(primitive, given, params))(*args)


@contextmanager
def evaluating() -> Iterator[None]:
    """JAX's own evaluation, whatever trace is active, and without the mark of `retraced`."""
    with core.set_current_trace(core.eval_trace), _unmarked(_marked.get()):
        yield


@contextmanager
def meant(context: Any) -> Iterator[None]:
    """The configuration in which an equation was traced (its ``ctx``), without the mark of `retraced`."""
    with context.manager, _unmarked(_MARK in (context.xla_metadata or ())):
        yield


@contextmanager
def retraced(mark: str = "captured") -> Iterator[None]:
    """A context in which no function that was traced before counts as traced; what was traced before stays so outside.

    A context of our own (`jax.make_user_context`) would grow the key of every cache: the program's functions would all be
    traced again, also where nobody looks, and a value that was baked into one would be another.
    """
    token = _marked.set(True)
    try:
        with set_xla_metadata(**{_MARK: mark}):
            yield
    finally:
        _marked.reset(token)


_MARK = "whydiff"
_marked = ContextVar("marked", default=False)
_anew = itertools.count()


def traced_anew() -> AbstractContextManager[Any]:
    """`retraced`, each time for itself: a value that changed since the last time is read again."""
    return retraced(f"traced {next(_anew)}")


def _unmarked(marked: bool) -> AbstractContextManager[Any]:
    """A mark tells functions apart, and means nothing to what they do: XLA would compile every op again for it."""
    return set_xla_metadata(**{_MARK: None}) if marked else nullcontext()


def one_cpu() -> bool:
    """Whether every array lies on one device, the processor: no other backend is there."""
    return set(xla_bridge.backends()) == {"cpu"} and jax.device_count() == 1


def settings() -> tuple[tuple[str, str], ...]:
    """How JAX is set on this thread: every option and its value. Some change what XLA makes of one and the same text."""
    return tuple((name, str(getattr(jax.config, name, None))) for name in sorted(jax.config.values))


def check(primitive: Primitive, operands: Sequence[Any], params: Mapping[str, Any], outputs: Sequence[Any]) -> None:
    """Ask a primitive, without executing it, what it would give and what else it would do.

    Args:
        primitive: one of `own_primitives`.
        operands: abstract values, or `Fixed` numbers.
        params: its parameters.
        outputs: abstract values that were recorded.

    Raises:
        ReplayError: it has effects besides its results, or would give other shapes than were recorded.
    """
    given = [_abstract(operand) for operand in operands]
    found, effects = primitive.abstract_eval(*given, **params)
    shapes = [tuple(aval.shape) for aval in (found if primitive.multiple_results else [found])]
    if effects:
        raise ReplayError(
            "A primitive does more than give its results.", where=primitive.name, actual=str(effects)[:80]
        )
    if shapes != [tuple(output.shape) for output in outputs]:
        raise ReplayError(
            "A primitive would give other shapes than were recorded.",
            where=primitive.name,
            actual=str(shapes)[:80],
            expected=str([tuple(output.shape) for output in outputs])[:80],
        )


def _abstract(operand: Any) -> Any:
    if isinstance(operand, jax.ShapeDtypeStruct):
        return core.ShapedArray(operand.shape, operand.dtype)
    return jax.typeof(operand.value)


@functools.cache
def own_primitives() -> Mapping[str, Primitive]:
    """JAX's numerical primitives by name; none of them calls back into Python or foreign code."""
    found: dict[str, Primitive] = {}
    parts = ("lax", "slicing", "convolution", "linalg", "fft", "windowed_reductions", "special", "ann", "other")
    for home in (*(f"lax.{part}" for part in parts), "ad_util", "prng"):
        try:
            module = importlib.import_module(f"jax._src.{home}")
        except ModuleNotFoundError:  # another version keeps these elsewhere
            continue
        found |= {item.name: item for item in vars(module).values() if isinstance(item, Primitive)}
    names = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")  # at home beside loops, which call programs
    return found | {name: getattr(primitives, f"{name}_p") for name in names}


def scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """(constants, carried values) of a ``scan``: numbers up to jax 0.10, a tree of operands from 0.11 on."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def key_kind(aval: Any) -> Any:
    """The generator of a typed PRNG key's abstract value, as `jax.random.wrap_key_data` takes it."""
    return aval.dtype._impl


def x64(enabled: bool) -> AbstractContextManager[Any]:
    """64-bit dtypes on or off on this thread."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)  # type: ignore[no-any-return]
    from jax import experimental

    return experimental.enable_x64(enabled)  # type: ignore[no-any-return]


def name_stack() -> Any:
    """Names and transformations around the primitive that is bound now."""
    return source.current_name_stack()


def place(info: Any = None) -> str:
    """``file:line (function)`` of the user's code that made an equation, or that runs now."""
    traceback = source.current().traceback if info is None else info.traceback
    frame = source.user_frame(traceback)
    if frame is None:
        return ""
    return f"{frame.file_name}:{frame.start_line} ({frame.function_name})"


class Dispatch(core.Trace):  # type: ignore[misc]
    """Sees every primitive of an un-transformed program."""

    handle: Any = None

    def process_primitive(self, primitive: Primitive, args: Sequence[Any], params: Mapping[str, Any], /) -> Any:
        """Hand the primitive over."""
        out = self.handle(primitive, args, params)
        return out if primitive.multiple_results else out[0]

    def process_call(self, primitive: Any, f: Any, tracers: Sequence[Any], params: Any, /) -> Any:
        """Evaluate the called function, primitive by primitive."""
        with core.set_current_trace(self):
            return f.call_wrapped(*tracers)

    def process_custom_jvp_call(self, primitive: Any, fun: Any, jvp: Any, tracers: Sequence[Any], /, **_: Any) -> Any:
        """Evaluate the function; its rule does not matter here."""
        with core.set_current_trace(self):
            return fun.call_wrapped(*tracers)

    def process_custom_vjp_call(
        self, primitive: Any, fun: Any, fwd: Any, bwd: Any, tracers: Sequence[Any], /, **_: Any
    ) -> Any:
        """Evaluate the function; its rules do not matter here."""
        with core.set_current_trace(self):
            return fun.call_wrapped(*tracers)

    def stage_value(self, value: Any) -> Any:
        """A value as an array."""
        return value if isinstance(value, jax.Array) else self.process_primitive(core.stage_p, [value], {})

    def cur_qdd(self, x: Any) -> Any:
        """What JAX's evaluation answers."""
        return x.cur_qdd()


@contextmanager
def dispatching(handle: Any) -> Iterator[None]:
    """While active, ``handle(primitive, args, params) -> outputs`` evaluates what the program binds.

    The object that JAX sees is used again: every new one would be another key in the caches of its functions.
    """
    idle: list[Dispatch] = _idle.__dict__.setdefault("traces", [])
    trace = idle.pop() if idle else Dispatch()
    trace.handle = handle
    try:
        with core.set_current_trace(trace):
            yield
    finally:
        trace.handle = None
        idle.append(trace)


_idle = threading.local()

"""How a model is run: in one pass, or in pieces with its cache; the scores come as a tuple of pieces."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from whydiff.errors import UsageError

Given = Any
"""Token ids, integers [B, T], or a mapping with ``input_ids`` and what goes with them."""
Decode = Callable[[Given], Any]
"""From the input to scores [B, T, V], or to a sequence of [B, t, V] whose lengths add up to T."""

IDS, MASK = "input_ids", "attention_mask"


def ids_of(given: Given) -> Any:
    """The token ids.

    Raises:
        UsageError: there are none, or they have not two dimensions.
    """
    ids = given.get(IDS) if isinstance(given, Mapping) else given
    if len(getattr(ids, "shape", ())) != 2:
        raise UsageError(
            "There are no token ids to decode.",
            actual=f"shape {list(getattr(ids, 'shape', ()))}",
            expected=f"integers [batch, tokens], or a mapping with {IDS}",
        )
    return ids


def in_one_pass(model: Any) -> Decode:
    """The reference: everything at once, without a cache where the model can be told so."""
    alone = {"use_cache": False} if "use_cache" in _parameters(model) else {}

    def one_pass(given: Given) -> Any:
        return scores(_called(model, given, alone))

    return one_pass


def in_pieces(model: Any, pieces: Sequence[int]) -> Decode:
    """The model called on one piece after another; each call gets the cache that the one before returned.

    As transformers' decoders do it: ``model(ids, past_key_values=cache, use_cache=True)`` returns an object with
    ``logits`` and ``past_key_values``. Of a mapping, ids and what has their shape is cut to the piece, and the
    attention mask to all positions so far.

    Raises:
        UsageError: the model takes no cache.
    """
    if not takes_cache(model):
        raise UsageError(
            "This model takes no cache, so it is not known how to run it in pieces.",
            actual=type(model).__name__,
            expected="model(ids, past_key_values=…, use_cache=True)",
            next_step="give ways={'name': function}; it gets the input and returns the scores",
        )

    def piecewise(given: Given) -> Any:
        cache, start, found = None, 0, []
        for length in pieces:
            result = _called(model, cut(given, start, start + length), {"past_key_values": cache, "use_cache": True})
            cache, start = result.past_key_values, start + length
            found.append(scores(result))
        return tuple(found)

    return piecewise


def split(decode: Decode, pieces: Sequence[int]) -> Decode:
    """A way whose scores come as pieces: those that it returns, else cut as asked."""

    def piecewise(given: Given) -> Any:
        found = decode(given)
        if isinstance(found, (list, tuple)):
            return tuple(found)
        whole, start, parts = scores(found), 0, []
        for length in pieces:
            parts.append(whole[:, start : start + length])
            start += length
        return tuple(parts)

    return piecewise


def takes_cache(model: Any) -> bool:
    """Whether a model can be handed a cache."""
    return "past_key_values" in _parameters(model)


def cut(given: Given, start: int, stop: int) -> Given:
    """The positions from ``start`` up to ``stop``; of the mask, all up to ``stop``."""
    if not isinstance(given, Mapping):
        return given[:, start:stop]
    shape = tuple(ids_of(given).shape)
    part = {}
    for name, value in given.items():
        same = tuple(getattr(value, "shape", ()))[:2] == shape
        part[name] = value[:, (0 if name == MASK else start) : stop] if same else value
    return part


def scores(result: Any) -> Any:
    """The scores within what a model or a way returned."""
    if hasattr(result, "logits"):
        return result.logits
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    return result[0] if isinstance(result, (list, tuple)) and result else result


def even(total: int, length: int) -> tuple[int, ...]:
    """Pieces of one length; the last one may be shorter."""
    return tuple(min(length, total - start) for start in range(0, total, length))


def _called(model: Any, given: Given, more: Mapping[str, Any]) -> Any:
    return model(**given, **more) if isinstance(given, Mapping) else model(given, **more)


def _parameters(model: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(getattr(model, "forward", model)).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature
        return {}

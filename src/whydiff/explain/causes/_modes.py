"""Training and evaluation mode: which modules are in another one, and which ops follow from it in two recorded runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whydiff.explain.arguments import as_value, given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._state import target_name
from whydiff.explain.keys import draws
from whydiff.explain.sites import sites_of
from whydiff.records import Call, Intervention, Origin, Trace


def modes(case: Case) -> tuple[dict[str, bool], dict[str, bool]]:
    """Module → whether it is in training mode, in the reference and in the candidate, by the reference's names."""
    theirs = {case.rename(path): value for path, value in _modes(case.candidate.scalars).items()}
    return _modes(case.reference.scalars), theirs


def _modes(scalars: Mapping[str, Any]) -> dict[str, bool]:
    return {
        path.rpartition(".")[0]: value
        for path, value in scalars.items()
        if path.rpartition(".")[2] == "training" and isinstance(value, bool)
    }


def in_another_mode(case: Case) -> dict[str, bool]:
    """Module that both sides have → the reference's mode, where the candidate's is the other one."""
    wanted, now = modes(case)
    return {path: value for path, value in wanted.items() if now.get(path, value) != value}


def module_name(case: Case, path: str) -> str:
    """The candidate's name of a module."""
    return target_name(case, f"{path}.training" if path else "training").rpartition(".")[0]


def followed_by(case: Case) -> dict[int, Intervention]:
    """Position of an origin that follows from another mode → the reference's way there, in a replay; not of live runs.

    Inside of a module in another mode of which nothing else is set otherwise: an op whose argument is the mode, a step of
    one side alone that draws, or that writes into what the module registered (a count of batches).
    """
    return case.shared("origins of another mode", lambda: dict(_followed(case)))


def _followed(case: Case) -> Iterator[tuple[int, Intervention]]:
    wanted = in_another_mode(case)
    live = [Intervention("set-mode", module_name(case, path), value) for path, value in wanted.items()]
    if not wanted or case.experiments.supports(live):
        return
    other = _set_otherwise(case)
    wanted = {path: value for path, value in wanted.items() if path not in other}
    by_site = sites_of(case.reference), sites_of(case.candidate)
    for index, origin in enumerate(case.localization.origins):
        if origin.kind == "arguments" and min(origin.calls) >= 0:
            found = _argument(case, origin, wanted)
        elif origin.kind == "region":
            found = _step(case, origin, wanted, by_site)
        else:
            found = None
        if found is not None:
            yield index, found


def _set_otherwise(case: Case) -> set[str]:
    """Modules of which something else is set otherwise too: what they draw may follow from that."""
    theirs = {case.rename(path): value for path, value in case.candidate.scalars.items()}
    both = ((path, value, theirs[path]) for path, value in case.reference.scalars.items() if path in theirs)
    parts = (path.rpartition(".") for path, one, two in both if one != two)
    return {module for module, _, name in parts if name != "training"}


def _argument(case: Case, origin: Origin, wanted: Mapping[str, bool]) -> Intervention | None:
    """The mode as an op's argument, if nothing else of it differs."""
    ours, theirs = case.calls_at(origin.calls)
    mode, given = wanted.get(ours.site.scope), given_otherwise(ours, theirs)
    if mode is None or len(given) != 1 or given[0][1] is not mode or given[0][2] is mode:
        return None
    value = as_value(mode)
    return None if value is None else Intervention("set-argument", str(theirs.site), (given[0][0], *value))


def _step(
    case: Case, origin: Origin, wanted: Mapping[str, bool], by_site: tuple[Mapping[str, Call], Mapping[str, Call]]
) -> Intervention | None:
    """A step that one side carries out for its mode: it is left out in the candidate, or put in."""
    sites = [str(site.at("")) for site in origin.region]
    unpaired = case.alignment.unpaired_reference, case.alignment.unpaired_candidate
    for side, trace in enumerate(case.traces):
        calls = [by_site[side][site] for site in sites if site in by_site[side]]
        alone = len(calls) == len(sites) and all(call.index in unpaired[side] for call in calls)
        rename = case.rename if side else str
        if alone and all(rename(call.site.scope) in wanted for call in calls) and _of_a_mode(trace, calls):
            ours, theirs = origin.site.at(""), origin.candidate_site.at("")
            return Intervention("remove-step" if side else "insert-step", str(theirs), str(ours))
    return None


def _of_a_mode(trace: Trace, calls: list[Call]) -> bool:
    registered = {leaf.storage for leaf in trace.leaves if leaf.is_registered}
    counts = all(any(call.reads[i].storage in registered for i in call.mutates) for call in calls)
    return bool(calls) and (counts or any(draws(trace, call) for call in calls))

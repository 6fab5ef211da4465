"""Which column of a file holds what: given by the caller, or guessed from the names that tools use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from whydiff.errors import UsageError

KNOWN: dict[str, tuple[str, ...]] = {
    "id": ("id", "uid", "request_id", "rid", "sample_id", "sequence_id", "prompt_id", "index", "uuid", "custom_id"),
    "tokens": (
        "token_ids",
        "response_ids",
        "completion_ids",
        "output_token_ids",
        "output_ids",
        "responses",
        "input_ids",
        "token_id",
        "tokens",
        "token",
    ),
    "logprobs": (
        "logprobs",
        "logprob",
        "log_probs",
        "token_logprobs",
        "rollout_log_probs",
        "rollout_logprobs",
        "response_logprobs",
        "output_token_logprobs",
        "output_logprobs",
        "sampling_per_token_logps",
        "old_per_token_logps",
        "per_token_logps",
        "generation_logprobs",
        "old_log_probs",
        "old_log_prob",
        "prev_logprobs",
        "prompt_logprobs",
        "logp",
        "logps",
    ),
    "position": ("position", "pos", "token_index"),
    "mask": ("loss_mask", "response_mask", "completion_mask", "action_mask", "token_mask", "mask", "attention_mask"),
    "prompt": ("prompt_length", "prompt_len", "num_prompt_tokens", "prompt_tokens"),
    "length": ("length", "lengths", "sequence_length", "response_length"),
    "step": ("step", "global_step", "global_steps", "training_step", "weight_version", "policy_version", "iteration"),
    "worker": ("worker", "worker_id", "replica", "replica_id", "rank", "dp_rank", "engine_id", "server", "host"),
    "entropy": ("entropy", "entropies", "entropys", "token_entropy"),
}
"""Role → names of it in the files of vLLM, SGLang, TRL, verl, NeMo-RL, OpenRLHF and the OpenAI batch format."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the columns; empty: the file has none.

    Attributes:
        id: what pairs two rows.
        tokens: token ids (or texts), one for each log-probability.
        logprobs: log-probabilities of the tokens, in nats.
        position: place of a token within its sequence, where a row is one token.
        mask: 0 for tokens that do not count (prompt, padding).
        prompt: tokens at the beginning that are the prompt.
        length: tokens of a row that count, in padded arrays.
        step: step of training, or version of the weights.
        worker: who computed it.
        entropy: of the distribution that the token was drawn from, in nats.
    """

    id: str = ""
    tokens: str = ""
    logprobs: str = ""
    position: str = ""
    mask: str = ""
    prompt: str = ""
    length: str = ""
    step: str = ""
    worker: str = ""
    entropy: str = ""

    def found(self) -> dict[str, str]:
        """Role → name, of those that there are."""
        return {f.name: name for f in fields(self) if (name := getattr(self, f.name))}


def guess(names: Iterable[str], given: Mapping[str, str], where: str) -> Fields:
    """The roles of a file's columns.

    Args:
        names: of the columns; parts of a nested record are joined by dots.
        given: role → name, by the caller; these are not guessed.
        where: the file, for the error.

    Raises:
        UsageError: no column looks like log-probabilities, or a given one is not there.
    """
    every = list(names)
    unknown = [name for role, name in given.items() if role in KNOWN and name not in every]
    if unknown or given.keys() - KNOWN.keys():
        raise UsageError(
            "A field that was named is not there.",
            where=where,
            actual=", ".join(unknown) or ", ".join(sorted(given.keys() - KNOWN.keys())),
            expected=f"roles {', '.join(KNOWN)}; columns {', '.join(map(str, every[:20]))}",
        )
    found = Fields(**{role: given.get(role) or _first(every, known) for role, known in KNOWN.items()})
    if not found.logprobs:
        raise UsageError(
            "No column looks like log-probabilities.",
            where=where,
            actual=", ".join(map(str, every[:20])) or "no column",
            expected=f"one of {', '.join(KNOWN['logprobs'])}",
            next_step="name it: --field logprobs=NAME",
        )
    return found if found.tokens != found.logprobs else replace(found, tokens="")


def _first(names: list[str], known: tuple[str, ...]) -> str:
    """The column with the best known name; the whole name counts before the last part of a nested one."""
    for wanted in known:
        for name in names:
            if name.lower() == wanted:
                return name
    for wanted in known:
        for name in names:
            if name.lower().rpartition(".")[2] == wanted:
                return name
    return ""

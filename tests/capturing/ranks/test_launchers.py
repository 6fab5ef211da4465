"""How a process knows which of several it is, and what of a collective is there before it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.rank_programs import mismatched, recorded_once

from whydiff.capturing.ranks import Rank, told
from whydiff.capturing.store.reader import open_ranks
from whydiff.errors import TraceFormatError
from whydiff.explain.causes._rank_runs import recorded
from whydiff.records import Collective

pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({"RANK": "1", "WORLD_SIZE": "4"}, Rank(1, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, Rank(1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Rank(0, 2)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3"}, Rank(2, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}, Rank()),  # a batch script, which srun did not start
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Rank(0, 2)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, Rank()),
        ({}, Rank()),
    ],
)
def test_launchers_tell_a_process_which_one_it_is(variables: dict[str, str], rank: Rank) -> None:
    assert told(variables) == rank


def test_collectives_are_in_a_file_of_their_own_as_the_index_has_them() -> None:
    trace = open_ranks(Path(recorded_once(mismatched("same"), 2)))[0][1]
    calls = [call for call in trace.calls if Collective.of(call.arguments)]
    assert [call.site for call in trace.exchanges] == [call.site for call in calls]
    assert [call.arguments for call in trace.exchanges] == [call.arguments for call in calls]
    assert [[e.spec for e in call.reads] for call in trace.exchanges] == [
        [e.spec for e in call.reads] for call in calls
    ]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_an_error() -> None:
    path = Path(recorded(mismatched("same"), 2))
    file = path / "rank-00000" / "exchanges.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert len(open_ranks(path)[0][0].exchanges) == 3
    file.write_bytes(whole.replace(b'"call"', b'"cell"', 1))
    with pytest.raises(TraceFormatError, match=r"exchanges\.jsonl, line"):
        _ = open_ranks(path)[0][0].exchanges

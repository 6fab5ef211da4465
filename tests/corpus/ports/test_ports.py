"""A bounded part of the corpus of ports: right ones are silent, planted mistakes are placed and named, none wrongly."""

from __future__ import annotations

import pytest

pytest.importorskip("flax")
pytest.importorskip("equinox")

from tests.corpus.ports import score
from tests.corpus.ports.parts import Port

from whydiff.records import Verdict

SAMPLE = {
    "linen ConvTranspose": "wide",
    "linen BatchNorm": "square",
    "linen GroupNorm": "wide",
    "Equinox GRUCell": "wide",
    "Equinox LayerNorm": "square",
    "attention by hand": "wide",
    "embedding, scaled": "square",
    "bilinear resize": "wide",
}
PORTS = [port for port in score.PORTS if port.name in SAMPLE]


def test_the_corpus_is_large_enough() -> None:
    assert len(score.PORTS) >= 20
    assert all(len(port.mistakes) >= 2 for port in score.PORTS)
    assert len({port.name for port in score.PORTS}) == len(score.PORTS)


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.name)
def test_a_right_port_is_silent(port: Port) -> None:
    found = score.checked(port, SAMPLE[port.name])
    assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING), found.reason
    assert not score.wrong(found, None)


@pytest.mark.parametrize("port", PORTS, ids=lambda port: port.name)
def test_a_planted_mistake_is_placed_and_named(port: Port) -> None:
    mistake = port.mistakes[-1]
    found = score.checked(port, SAMPLE[port.name], mistake)
    assert score.placed(found, mistake), found.origins
    assert score.named(found, mistake), found.causes
    assert not score.wrong(found, mistake)

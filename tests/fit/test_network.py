"""The network for a latency, measured for real: exported, run by every engine, and timed."""

from __future__ import annotations

import logging

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.fit import network
from ppcls_lite.inference.engines import available_engines


def test_a_latency_is_measured_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network, "fastest_first", lambda: ["PPLCNet_x0_25"])
    with caplog.at_level(logging.INFO, "ppcls_lite"):
        assert network.by_latency(10_000, 32, 2) == "PPLCNet_x0_25"
        with pytest.raises(UserError, match=r"PPLCNet_x0_25, .* ms here, more than 0.0001"):
            network.by_latency(0.0001, 32, 2)
    found = [record.getMessage() for record in caplog.records if " ms an image " in record.msg]
    for text in found:
        name, taken, engine = text.replace(":", "").split(" ")[0], *text.split()[1:2], text
        assert name == "PPLCNet_x0_25" and 0 < float(taken) < 10_000
        assert any(one in engine for one in available_engines())
    assert len(found) == 2

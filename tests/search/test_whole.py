"""Latencies of a search's networks on a machine that other programs use now and then."""

import logging
from pathlib import Path
from typing import Any

import paddle
import pytest

from ppcls_lite.config.check import build
from ppcls_lite.config.complete import Recipe
from ppcls_lite.engine.distributed import World
from ppcls_lite.errors import UserError
from ppcls_lite.search.journal import Journal
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import digest
from ppcls_lite.search.whole import WholeNetworks


class Case:
    """Six networks of different widths, and what they take on a quiet machine."""

    def __init__(self, tree: dict[str, Any], folder: Path, meter: Any) -> None:
        keys = {"class_expand": [8, 16, 24, 32, 40, 48]}
        space = build({"name": "ArchSpace", "network": "PPLCNet", "keys": keys}, "space")
        networks = Networks(Recipe.of(tree), space, (3, 16, 16))
        self.all = [{"class_expand": width} for width in keys["class_expand"]]
        self.quiet = {digest(c): meter.ms(networks.whole(c)) for c in self.all}
        self.names = [networks.whole(c).name for c in self.all]
        folder.mkdir()
        target = self.quiet[digest(self.all[1])]
        rest = target, World(), Journal(folder, {})
        self.measured = WholeNetworks(networks, meter, *rest)
        self.networks, self.meter, self.folder = networks, meter, folder

    def beside(self, name: str) -> WholeNetworks:
        """The same networks with the latency of one that has a name as the target."""
        return WholeNetworks(
            *(self.networks, self.meter, self.networks.named(name)),
            *(World(), Journal(self.folder, {})),
        )


@pytest.fixture
def case(tree: dict[str, Any], tmp_path: Path, meter: Any) -> Case:
    return Case(tree, tmp_path / "search", meter)


def test_the_network_next_to_the_target_is_measured_beside_the_others(
    case: Case, meter: Any
) -> None:
    case.measured.measure(case.all[:3])
    case.measured.measure(case.all[:2])  # known
    assert meter.asked == case.names[:3]
    case.measured.measure(case.all[2:5])
    assert meter.asked[3:] == [*case.names[3:5], case.names[1]]
    expected = {digest(c): case.quiet[digest(c)] for c in case.all[:5]}
    assert case.measured.latencies() == pytest.approx(expected)


def test_a_machine_that_is_quiet_again_is_measured_again(case: Case, meter: Any) -> None:
    case.measured.measure(case.all[:3])
    meter.slow = [1.6]
    case.measured.measure(case.all[3:])
    assert meter.asked.count(case.names[5]) == 2
    assert case.measured.latencies() == pytest.approx(case.quiet)


def test_what_a_busy_machine_takes_longer_is_taken_off(
    case: Case, meter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    case.measured.measure(case.all[:3])
    meter.slow = [1.7, 1.5, 1.6]
    with caplog.at_level(logging.WARNING, logger="ppcls_lite"):
        case.measured.measure(case.all[3:])
    assert meter.asked.count(case.names[5]) == 3 and "this machine is busy" in caplog.text
    assert case.measured.latencies() == pytest.approx(case.quiet)
    kept = Journal(case.measured.journal.path.parent, {})
    again = WholeNetworks(case.measured.networks, meter, case.measured.target, World(), kept)
    assert again.latencies() == pytest.approx(case.quiet)  # of a search that goes on


def test_small_differences_are_left_alone(case: Case, meter: Any) -> None:
    case.measured.measure(case.all[:3])
    meter.slow = [1.04]
    case.measured.measure(case.all[3:])
    found = case.measured.latencies()
    last = digest(case.all[5])
    assert found[last] == pytest.approx(1.04 * case.quiet[last])


def test_a_search_that_began_while_the_machine_was_busy(
    case: Case, meter: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (999.0, 9.0, 9.0))
    meter.slow = [1.5]
    with caplog.at_level(logging.WARNING, logger="ppcls_lite"):
        case.measured.measure(case.all[:3])
    assert "other programs keep this machine busy (load 999.0 on " in caplog.text
    case.measured.measure(case.all[3:])
    assert case.measured.latencies() == pytest.approx(case.quiet)


def test_a_network_that_is_the_target_is_measured_beside_all(case: Case, meter: Any) -> None:
    """And latencies are shares of its, however slow the machine is with either."""
    meter.slow = [1.5, 1.3, 1.4]  # of the target: the quietest of three
    measured = case.beside("PPLCNet_x0_25")
    named = case.networks.named("PPLCNet_x0_25")
    assert measured.target == pytest.approx(1.3 * meter.ms(named))
    assert meter.asked == [named.name] * 3
    for part, slow in ((case.all[:3], 1.0), (case.all[3:], 1.31)):
        meter.slow = [slow]
        measured.measure(part)
    assert meter.asked[3:] == [*case.names[:3], named.name, *case.names[3:], named.name]
    found = measured.latencies()
    assert found == pytest.approx({key: 1.3 * ms for key, ms in case.quiet.items()})
    again = case.beside("PPLCNet_x0_25")  # of a search that goes on
    assert again.target == measured.target and again.latencies() == found


def test_a_named_network_takes_the_arguments_that_it_knows(case: Case) -> None:
    case.networks.arguments |= {"stride_list": [1, 1, 2, 2, 1]}
    own = case.networks.named("PPLCNet_x0_25").build()
    assert own.fc.weight.shape[1] == 3 and own(paddle.zeros([1, 3, 16, 16])).shape == [1, 3]
    other = case.networks.named("MobileNetV1_x0_25").build()  # which has no list of strides
    assert other(paddle.zeros([1, 3, 32, 32])).shape == [1, 3]


def test_a_name_that_no_network_has(case: Case) -> None:
    with pytest.raises(UserError, match=r"--latency: .*'PPLCNet_x05'; .* 'PPLCNet_x0_5'"):
        case.beside("PPLCNet_x05")


@pytest.mark.parametrize("name", [None, "PPLCNet_x0_25"])
def test_what_was_measured_while_the_machine_was_busy_is_measured_again_in_the_end(
    case: Case, meter: Any, name: str | None
) -> None:
    """Other programs do not slow all networks alike; what was quiet stays as it is."""
    measured = case.beside(name) if name else case.measured
    measured.measure(case.all[:3])
    meter.slow = [1.6] * 3
    measured.measure(case.all[3:5])
    before = len(meter.asked)
    measured.measure(case.all[:5])
    assert len(meter.asked) == before
    measured.measure(case.all, settle=True)
    beside = case.names[1] if name is None else name
    assert meter.asked[before:] == [*case.names[3:], beside]
    assert measured.latencies() == pytest.approx(case.quiet)
    measured.measure(case.all, settle=True)
    assert len(meter.asked) == before + 4  # nothing twice

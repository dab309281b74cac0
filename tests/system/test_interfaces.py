"""The network interface that leads to another machine."""

from __future__ import annotations

import sys

import pytest

from ppcls_lite.system.interfaces import interface_to

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's kernel")


def test_the_interface_is_that_of_the_route() -> None:
    assert interface_to("127.0.0.1") == "lo"


def test_without_a_route_there_is_none() -> None:
    assert interface_to("255.255.255.255") is None

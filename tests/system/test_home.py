"""One folder of the user for weights, choices of engines and kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.auto.cache import cache_folder as engines
from ppcls_lite.kernels.build import cache_folder as kernels
from ppcls_lite.models.weights.pretrained import weights_folder
from ppcls_lite.system.home import home_folder


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "user/.ppcls_lite"),
        ("", "user/.ppcls_lite"),
        ("~/x", "user/x"),
        ("{root}/y", "y"),
    ],
)
def test_everything_of_the_user_lies_in_one_folder(
    value: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("PPCLS_LITE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("PPCLS_LITE_HOME", value.format(root=tmp_path))
    home = tmp_path / expected
    assert home_folder() == home
    assert [weights_folder(), engines(), kernels()] == [
        home / name for name in ("weights", "engines", "kernels")
    ]


def test_a_home_that_nobody_knows_is_a_message() -> None:
    with pytest.raises(UserError, match=r"~nobody_of_this_name/x: .*; set PPCLS_LITE_HOME to"):
        home_folder({"PPCLS_LITE_HOME": "~nobody_of_this_name/x"})

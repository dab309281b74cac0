"""Every pair of networks against timm itself, where it is installed (it needs PyTorch).

Made-up weights go through a safetensors file from their network into ours. The committed golden
values (test_torch_names.py) hold the same of 19 pairs without timm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.config.timm import TIMM
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import load_weights
from ppcls_lite.models.weights.safetensors_file import write_safetensors
from tests.models.made_up import made_up

timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("architecture", TIMM)
def test_the_same_answers(architecture: str, tmp_path: Path) -> None:
    pair = TIMM[architecture]
    theirs = timm.create_model(architecture, pretrained=False).eval()
    gain = 0.3 if architecture.startswith("starnet") else 1.5  # its products grow
    state = {
        name: made_up(name, tuple(value.shape), gain)
        if value.is_floating_point()
        else value.numpy()
        for name, value in theirs.state_dict().items()
    }
    theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    write_safetensors(tmp_path / "model.safetensors", state)
    ours = create_model(pair.ours, **pair.options)
    load_weights(ours, tmp_path / "model.safetensors")
    ours.eval()
    images = np.random.RandomState(7).standard_normal((2, 3, 160, 160)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images)).numpy()
    with paddle.no_grad():
        found = ours(paddle.to_tensor(images)).numpy()
    assert np.ptp(expected, axis=1).min() > 1e-3  # images are told apart
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-4


def test_the_published_tags() -> None:
    """Those of 1000 classes that this timm knows; a newer one may know more."""
    for architecture, pair in TIMM.items():
        known = timm.list_pretrained(f"{architecture}.*")
        assert set(pair.tags) <= {name.partition(".")[2] for name in known}, architecture

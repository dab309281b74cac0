"""Batch normalisation over the images of several ranks: values, gradients, statistics."""

from __future__ import annotations

import threading

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.sync_norm import SyncedBatchNorm, synchronized


class Together(World):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, parts: list, gate: threading.Barrier) -> None:
        super().__init__(rank, len(parts))
        self.parts, self.gate = parts, gate

    def total(self, values: Tensor) -> Tensor:
        self.parts[self.rank] = values.numpy()
        self.gate.wait(30)
        found = sum(self.parts)
        self.gate.wait(30)
        return paddle.to_tensor(found)


def norm_of(kind: type[nn.Layer]) -> nn.Layer:
    made = kind(4, momentum=0.7)
    rng = np.random.default_rng(1)
    for part in (made.weight, made.bias, made._mean):
        part.set_value(rng.standard_normal(4).astype(np.float32))
    return made


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm2D, (6, 4, 3, 5)), (nn.BatchNorm1D, (6, 4))]
)
def test_two_ranks_normalise_as_one(kind: type[nn.Layer], shape: tuple[int, ...]) -> None:
    """With other numbers of images, a large mean and a small deviation."""
    rng = np.random.default_rng(2)
    images = (100 + rng.standard_normal(shape)).astype(np.float32)
    slopes = rng.standard_normal(shape).astype(np.float32)
    whole = norm_of(kind)
    x = paddle.to_tensor(images, stop_gradient=False)
    wanted = whole(x)
    (wanted * paddle.to_tensor(slopes)).sum().backward()

    parts, gate = [None, None], threading.Barrier(2)
    found: dict[int, list[np.ndarray]] = {}

    def rank(number: int) -> None:
        norm = SyncedBatchNorm(norm_of(kind), Together(number, parts, gate))
        mine = slice(0, 2) if number == 0 else slice(2, None)
        own = paddle.to_tensor(images[mine], stop_gradient=False)
        answer = norm(own)
        (answer * paddle.to_tensor(slopes[mine])).sum().backward()
        learnt = [own.grad, norm.weight.grad, norm.bias.grad]
        found[number] = [t.numpy() for t in (answer, *learnt, norm._mean, norm._variance)]

    threads = [threading.Thread(target=rank, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    answers, slopes_in, scale, shift, means, variances = zip(found[0], found[1])
    close = {"rtol": 2e-4, "atol": 2e-4}
    np.testing.assert_allclose(np.concatenate(answers), wanted.numpy(), **close)
    np.testing.assert_allclose(np.concatenate(slopes_in), x.grad.numpy(), **close)
    np.testing.assert_allclose(sum(scale), whole.weight.grad.numpy(), **close)
    np.testing.assert_allclose(sum(shift), whole.bias.grad.numpy(), **close)
    for rank_means, rank_variances in zip(means, variances):
        np.testing.assert_allclose(rank_means, whole._mean.numpy(), rtol=1e-5)
        np.testing.assert_allclose(rank_variances, whole._variance.numpy(), **close)


def test_names_parameters_and_evaluation_stay() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1), norm_of(nn.BatchNorm2D), nn.ReLU())
    model.add_sublayer("again", model[1])
    before, images = model.state_dict(), paddle.randn([2, 3, 4, 4])
    model.eval()
    wanted = model(images).numpy()
    same = synchronized(model, World())
    assert same is model
    assert type(model[1]) is SyncedBatchNorm
    assert model.again is model[1]
    after = model.state_dict()
    assert [*after] == [*before]
    assert all(after[name] is before[name] for name in before)
    np.testing.assert_array_equal(model(images).numpy(), wanted)

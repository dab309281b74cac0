"""A network trains with the kernels as it does with stock Paddle."""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ppcls_lite.kernels import convert, revert
from ppcls_lite.models.create import create_model
from tests.kernels.with_stock import Watched

NETWORKS = ("PPLCNet_x0_25", "PPLCNetV2_small", "MobileNetV2_x0_25", "ShuffleNetV2_x0_25")


def train(model: paddle.nn.Layer, steps: int = 3, size: int = 96) -> list[float]:
    rng = np.random.default_rng(3)
    optimizer = paddle.optimizer.Momentum(0.002, 0.9, model.parameters(), weight_decay=1e-4)
    paddle.seed(5)
    model.train()
    losses = []
    for _ in range(steps):
        images = paddle.to_tensor(rng.standard_normal((8, 3, size, size)).astype(np.float32))
        loss = F.cross_entropy(model(images), paddle.to_tensor(rng.integers(0, 5, 8)))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


def pair(name: str, native: ctypes.CDLL) -> tuple[paddle.nn.Layer, paddle.nn.Layer]:
    paddle.seed(1)
    stock = create_model(name, class_num=5)
    own = copy.deepcopy(stock)
    assert convert(own, native) > 20
    return stock, own


def test_training_gives_the_losses_and_statistics_of_stock_paddle(native: ctypes.CDLL) -> None:
    stock, own = pair("PPLCNet_x0_25", native)
    assert list(stock.state_dict()) == list(own.state_dict())
    assert np.allclose(train(stock), train(own), rtol=1e-3)
    for key, value in stock.state_dict().items():
        if key.endswith(("_mean", "_variance")):
            found = own.state_dict()[key].numpy()
            assert np.allclose(value.numpy(), found, rtol=0.02, atol=1e-4), key


def gradients(model: paddle.nn.Layer, images: np.ndarray) -> np.ndarray:
    """All gradients of a network, one after another."""
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    model.train()
    x = paddle.to_tensor(images.astype(str(model.parameters()[0].dtype).split(".")[-1]))
    F.cross_entropy(model(x), paddle.arange(len(images))).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return np.concatenate([gradient.numpy().astype(np.float64).ravel() for gradient in found])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_a_network_are_as_exact_as_those_of_stock_paddle(
    name: str, native: ctypes.CDLL
) -> None:
    # an activation whose input is almost zero may fall on either side: double precision decides
    stock, own = pair(name, native)
    images = np.random.default_rng(2).standard_normal((5, 3, 96, 96))
    exact = gradients(copy.deepcopy(stock).to(dtype="float64"), images)
    size = np.linalg.norm(exact)
    error = np.linalg.norm(gradients(own, images) - exact) / size
    stock_error = np.linalg.norm(gradients(stock, images) - exact) / size
    print(f"{name}: relative error {error:.1e}, of stock Paddle {stock_error:.1e}")
    assert error <= 5 * stock_error + 1e-5


def segmenter() -> paddle.nn.Layer:
    """DeepLabV3+ whose convolutions have biases that are not 0."""
    paddle.seed(4)
    model = create_model("deeplabv3p_PPLCNet_x0_25", class_num=5, auxiliary=[2])
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, paddle.nn.Conv2D) and layer.bias is not None:
            layer.bias.set_value(paddle.randn(layer.bias.shape))
    model.train()
    return model


def test_one_image_trains_by_the_same_running_statistics(native: ctypes.CDLL) -> None:
    stock = segmenter()
    own = copy.deepcopy(stock)
    convert(own, native)
    image = paddle.randn([1, 3, 64, 96])
    found = [model(image)["logits"].numpy() for model in (stock, own)]
    np.testing.assert_allclose(found[1], found[0], atol=2e-3 * np.abs(found[0]).max())
    for model in (stock, own):
        norm = model.head.aspp.global_avg_pool[1]._batch_norm
        assert norm.training and not norm._mean.numpy().any()


def segmented(model: paddle.nn.Layer, images: np.ndarray) -> paddle.Tensor:
    kind = str(model.parameters()[0].dtype).split(".")[-1]
    outputs = model(paddle.to_tensor(images.astype(kind)))
    mask = paddle.to_tensor(np.random.default_rng(6).integers(0, 5, (2, 1, 61, 96)))
    return sum(F.cross_entropy(logits, mask, axis=1) for logits in outputs.values())


def test_a_segmentation_has_the_gradients_and_statistics_of_stock_paddle(
    native: ctypes.CDLL,
) -> None:
    """Biases before a normalisation are seen by its running mean alone, and decay."""
    stock = segmenter()
    own, exact = copy.deepcopy(stock), copy.deepcopy(stock).to(dtype="float64")
    assert convert(own, native) > 80
    images = np.random.default_rng(2).standard_normal((2, 3, 61, 96))
    errors, found = {}, {}
    for name, model in (("exact", exact), ("stock", stock), ("own", own)):
        loss = segmented(model, images)
        loss.backward()
        learnt = [p for p in model.parameters() if not p.stop_gradient]
        parts = [p.grad.numpy().astype(np.float64).ravel() for p in learnt]
        found[name] = float(loss), np.concatenate(parts)
        errors[name] = np.linalg.norm(found[name][1] - found["exact"][1])
        rate = paddle.optimizer.Momentum(0.1, 0.9, model.parameters(), weight_decay=0.1)
        rate.step()
    assert found["own"][0] == pytest.approx(found["exact"][0], rel=1e-6)
    assert errors["own"] <= 5 * errors["stock"] + 1e-5 * np.linalg.norm(found["exact"][1])
    compared = [k for k in own.state_dict() if k.endswith(("_mean", "_variance", "_conv.bias"))]
    assert len(compared) > 60
    for key in compared:  # weights move by gradients, which are compared above
        value = exact.state_dict()[key].numpy()
        bound = 1e-5 * max(1.0, np.abs(value).max())
        np.testing.assert_allclose(own.state_dict()[key], value, rtol=0, atol=bound, err_msg=key)


def test_evaluation_runs_its_convolutions_and_revert_undoes_everything(
    native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, own = pair("PPLCNet_x0_25", native)
    images = paddle.randn([2, 3, 64, 64])
    copied, rounded = copy.deepcopy(own), copy.deepcopy(stock)
    watched, in_bf16 = Watched(native), Watched(native)
    monkeypatch.setattr(in_bf16, "multiplies_bf16", lambda: 1, raising=False)
    revert(own)
    convert(own, watched)
    convert(rounded, in_bf16)
    for model in (stock, own, copied, rounded):
        model.eval()
    expected = stock(images).numpy()
    found = own(images).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert {"depthwise_forward", "dense_forward"} <= set(watched.called)
    assert not [name for name in watched.called if "norm" in name]
    found_so = rounded(images).numpy()
    np.testing.assert_allclose(found_so, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    dense = [model.blocks3[0].pw_conv.conv for model in (stock, rounded)]
    features = paddle.randn([2, dense[0].weight.shape[1], 8, 8])
    assert (dense[1](features).numpy() == dense[0](features).numpy()).all()
    run = {name for name in in_bf16.called if name.endswith("forward")}
    assert run == {"depthwise_forward"}  # products in bf16 are for training
    copied.set_state_dict({k: v * 0 for k, v in copied.state_dict().items()})
    assert (own(images).numpy() == found).all()  # the copy is not bound to the original
    revert(own)
    assert (own(images).numpy() == expected).all()
    for a, b in zip(stock.sublayers(include_self=True), own.sublayers(include_self=True)):
        assert type(a) is type(b)
        assert not hasattr(b, "_kernels")


def test_frozen_statistics_hooks_and_doubles_keep_the_stock_path(native: ctypes.CDLL) -> None:
    stock, own = pair("PPLCNet_x0_25", native)
    seen = []
    block = own.blocks2[0].dw_conv
    block.bn.register_forward_post_hook(lambda layer, x, y: seen.append(y.shape))
    for model in (stock, own):
        model.blocks3[0].dw_conv.bn._use_global_stats = True
        model.train()
        paddle.seed(9)
        model(paddle.ones([2, 3, 32, 32]))
    assert seen == [[2, 8, 16, 16]]
    frozen = own.blocks3[0].dw_conv.bn
    assert (frozen._mean.numpy() == 0).all() and (frozen._variance.numpy() == 1).all()
    doubles = own.to(dtype="float64")
    assert doubles(paddle.ones([2, 3, 32, 32], "float64")).dtype == paddle.float64

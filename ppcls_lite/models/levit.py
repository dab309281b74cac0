"""LeViT: a transformer in the shape of a convolutional network, made for fast inference.

Paper: https://arxiv.org/abs/2104.01136 (section 4). Attention biases depend on the distance of two
places, so the image size is the network's. `reparameterize` folds every batch normalisation into
its linear layer and looks the biases up once. Read next: backbone.py (the contract).
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Normal
from paddle.regularizer import L2Decay

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import Channels, ClassCount, NonNegativeInt, ScaledInt
from ppcls_lite.errors import UserError
from ppcls_lite.models.backbone import Backbone
from ppcls_lite.models.layers import conv2d
from ppcls_lite.models.reparameterize import fold, like

_VALUE_RATIO = {1: 2, 2: 4}  # width of a value against a key's, by stride
_MLP_RATIO = 2
_STEM_STRIDE = 16


class _Network(NamedTuple):
    """Of the three stages: channels, heads, pairs of attention and MLP; width of a key."""

    channels: tuple[int, int, int]
    heads: tuple[int, int, int]
    depths: tuple[int, int, int]
    key: int = 16


_NETWORKS = {
    "128S": _Network((128, 256, 384), (4, 6, 8), (2, 3, 4)),
    "128": _Network((128, 256, 384), (4, 8, 12), (4, 4, 4)),
}


class ConvNorm(nn.Layer):
    """A 3x3 convolution of stride 2 and its batch normalisation, under the key names of LeViT."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.c = conv2d(in_channels, out_channels, 3, 2)
        self.bn = nn.BatchNorm2D(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))  # (N, out_channels, H / 2, W / 2)

    def merge(self) -> bool:
        """Fold the normalisation into the convolution."""
        if isinstance(self.bn, nn.Identity):
            return False
        self.c, self.bn = like(self.c, *fold(self.c.weight, self.bn)), nn.Identity()
        return True


class LinearNorm(nn.Layer):
    """A linear layer and a batch normalisation over all tokens: (N, T, in) -> (N, T, out)."""

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        super().__init__()
        self.c = nn.Linear(in_features, out_features, bias_attr=False)
        self.bn = nn.BatchNorm1D(out_features, weight_attr=ParamAttr(initializer=Constant(scale)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        if self.bn is None:
            return y
        return self.bn(y.flatten(0, 1)).reshape([-1, *y.shape[1:]])

    def merge(self) -> bool:
        """Fold the normalisation into the linear layer."""
        if self.bn is None:
            return False
        kernel, bias = fold(self.c.weight.t(), self.bn)  # (out, in), (out,)
        made = nn.Linear(*self.c.weight.shape)
        made.weight.set_value(kernel.t())
        made.bias.set_value(bias)
        del self.bn
        self.c, self.bn = made, None
        return True


class Subsample(nn.Layer):
    """Every second row and column of the tokens: (N, R * R, C) -> (N, r * r, C)."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self._resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        grid = x.reshape([-1, self._resolution, self._resolution, x.shape[-1]])
        return grid[:, ::2, ::2].flatten(1, 2)


def _places(resolution: int, stride: int) -> np.ndarray:
    """Which bias belongs to a query and a key: their distance, (r * r, R * R) int64."""
    keys = np.arange(resolution)
    far = np.abs(keys[::stride, None] - keys)  # (r, R)
    index = far[:, None, :, None] * resolution + far[None, :, None, :]  # (r, r, R, R)
    return index.reshape(len(far) ** 2, resolution**2)


class Biased(nn.Layer):
    """What both kinds of attention share: the biases and the product."""

    def __init__(self, heads: int, key: int, resolution: int, stride: int) -> None:
        super().__init__()
        self._heads, self._key, self._scale = heads, key, key**-0.5
        self._value = key * _VALUE_RATIO[stride]
        attr = ParamAttr(initializer=Constant(0.0), regularizer=L2Decay(0.0))
        self.attention_biases = self.create_parameter([heads, resolution**2], attr=attr)
        index = paddle.to_tensor(_places(resolution, stride))
        self.register_buffer("attention_bias_idxs", index)
        self._merged = False

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (N, h, T, D), k (N, h, D, S), v (N, h, S, V) -> (N, T, h * V)."""
        weights = F.softmax(paddle.matmul(q, k) * self._scale + self.bias())  # (N, h, T, S)
        y = paddle.matmul(weights, v).transpose([0, 2, 1, 3])  # (N, T, h, V)
        return y.flatten(2)

    def bias(self) -> Tensor:
        """(h, T, S)"""
        if self._merged:
            return self.attention_bias
        return self._look_up()

    def _look_up(self) -> Tensor:
        index = self.attention_bias_idxs
        found = paddle.gather(self.attention_biases, index.flatten(), axis=1)
        return found.reshape([self._heads, *index.shape])

    def merge(self) -> bool:
        """Look the biases up once."""
        if self._merged:
            return False
        self.register_buffer("attention_bias", self._look_up().detach())
        del self.attention_biases, self.attention_bias_idxs
        self._merged = True
        return True


class Attention(Biased):
    """Attention among the tokens of one resolution: (N, T, C) -> the same shape."""

    def __init__(self, channels: int, key: int, heads: int, resolution: int) -> None:
        super().__init__(heads, key, resolution, 1)
        self.qkv = LinearNorm(channels, heads * (2 * key + self._value))
        last = LinearNorm(heads * self._value, channels, scale=0.0)
        self.proj = nn.Sequential(nn.Hardswish(), last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.qkv(x)  # (N, T, h * (2 D + V))
        x = x.reshape([-1, x.shape[1], self._heads, 2 * self._key + self._value])
        q, k, v = paddle.split(x, [self._key, self._key, self._value], axis=3)
        q, v = q.transpose([0, 2, 1, 3]), v.transpose([0, 2, 1, 3])
        return self.proj(self.attend(q, k.transpose([0, 2, 3, 1]), v))


class AttentionDown(Biased):
    """Attention of every second row and column to all: (N, R * R, C) -> (N, r * r, C_out)."""

    def __init__(
        self, in_channels: int, out_channels: int, key: int, heads: int, resolution: int
    ) -> None:
        super().__init__(heads, key, resolution, 2)
        self.kv = LinearNorm(in_channels, heads * (key + self._value))
        self.q = nn.Sequential(Subsample(resolution), LinearNorm(in_channels, heads * key))
        self.proj = nn.Sequential(nn.Hardswish(), LinearNorm(heads * self._value, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        kv, q = self.kv(x), self.q(x)
        kv = kv.reshape([-1, kv.shape[1], self._heads, self._key + self._value])
        k, v = paddle.split(kv, [self._key, self._value], axis=3)
        q = q.reshape([-1, q.shape[1], self._heads, self._key]).transpose([0, 2, 1, 3])
        return self.proj(self.attend(q, k.transpose([0, 2, 3, 1]), v.transpose([0, 2, 1, 3])))


class Residual(nn.Layer):
    """x + m(x)."""

    def __init__(self, layer: nn.Layer) -> None:
        super().__init__()
        self.m = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)


def _mlp(channels: int) -> Residual:
    hidden = channels * _MLP_RATIO
    last = LinearNorm(hidden, channels, scale=0.0)
    return Residual(nn.Sequential(LinearNorm(channels, hidden), nn.Hardswish(), last))


class Head(nn.Layer):
    """Batch normalisation and classifier of the mean token: (N, C) -> (N, class_num)."""

    def __init__(self, channels: int, class_num: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1D(channels)
        attr = ParamAttr(initializer=Normal(0.0, 0.02))
        self.l = nn.Linear(channels, class_num, weight_attr=attr)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(self.bn(x))


@register("model")
class LeViT(Backbone):
    """LeViT with one classifier.

    variant: which of the networks. class_num: classes; 0 builds the trunk alone. img_size: height
    and width of its images, which the attention biases are made for (`Global.image_size` sets it).
    return_patterns, return_stages: see `Backbone.tap`; a stage's tokens are (N, T, C).
    """

    head_layers = ("head",)

    def __init__(
        self,
        variant: Literal["128S", "128"] = "128S",
        class_num: ClassCount = 1000,
        img_size: ScaledInt = 224,
        return_patterns: list[str] | None = None,
        return_stages: bool | list[NonNegativeInt] | None = None,
        in_channels: Channels = 3,
    ) -> None:
        super().__init__(class_num)
        network, self._size = _NETWORKS[variant], img_size
        widths = [in_channels, *(network.channels[0] // part for part in (8, 4, 2, 1))]
        stem: list[nn.Layer] = []
        for narrow, wide in itertools.pairwise(widths):
            stem += [ConvNorm(narrow, wide), nn.Hardswish()]
        self.patch_embed = nn.Sequential(*stem[:-1])
        resolution = -(-img_size // _STEM_STRIDE)
        blocks: list[nn.Layer] = []
        self._grids: list[int] = []
        ends: list[int] = []
        for i, (channels, heads, depth) in enumerate(zip(*network[:3])):
            if i:
                before = network.channels[i - 1]
                down = (before, channels, network.key, before // network.key, resolution)
                blocks += [AttentionDown(*down), _mlp(channels)]
                resolution = -(-resolution // 2)
            for _ in range(depth):
                attention = Attention(channels, network.key, heads, resolution)
                blocks += [Residual(attention), _mlp(channels)]
            ends.append(len(blocks) - 1)
            self._grids.append(resolution)
        self.blocks, self._ends = nn.Sequential(*blocks), tuple(ends)
        self.channels, self.strides = network.channels, (16, 32, 64)
        self.stage_names = tuple(f"blocks[{i}]" for i in ends)
        if class_num:
            self.head = Head(self.channels[-1], class_num)
        self.tap(return_patterns, return_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        size = list(x.shape[2:])
        if size != [self._size] * 2:
            raise UserError(
                f"LeViT: the network is made for images of {self._size} x {self._size}, found "
                f"{size[0]} x {size[1]}; set img_size and the transforms to one size"
            )
        x = self.patch_embed(x).flatten(2).transpose([0, 2, 1])  # (N, T, C)
        tokens = self.outputs_at(self._ends, self.blocks, x)
        return [
            t.transpose([0, 2, 1]).reshape([-1, channels, grid, grid])
            for t, channels, grid in zip(tokens, self.channels, self._grids)
        ]

    def forward_head(self, feature: Tensor) -> Tensor:
        return self.head(feature.flatten(2).mean(2))

    def reparameterize(self) -> int:
        layers = list(self.sublayers())
        with paddle.no_grad():
            kinds = (ConvNorm, LinearNorm, Biased)
            return sum(layer.merge() for layer in layers if isinstance(layer, kinds))

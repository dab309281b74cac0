"""PP-LCNet in PyTorch, to compare training speeds where PyTorch is installed.

The same network as models/pplcnet.py (arXiv:2109.15099), layer by layer: `table.py` compares the
number of parameters. Imports nothing of Paddle, so that it may run in an environment of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Output channels at scale 1, kernel, stride, attention of each block (table 1 of the paper).
_BLOCKS = (
    (32, 3, 1, False),
    (64, 3, 2, False),
    (64, 3, 1, False),
    (128, 3, 2, False),
    (128, 3, 1, False),
    (256, 3, 2, False),
    *((256, 5, 1, False),) * 5,
    (512, 5, 2, True),
    (512, 5, 1, True),
)
RATE, MOMENTUM, DECAY = 0.01, 0.9, 3e-5


class SqueezeExcitation(nn.Module):
    """Channel attention, ratio 1/4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = nn.functional.relu(self.conv1(nn.functional.adaptive_avg_pool2d(x, 1)))
        return x * nn.functional.hardsigmoid(self.conv2(gate))


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    """Convolution, batch normalisation, hardswish."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.Hardswish(inplace=True),
    )


def pplcnet(scale: float, class_num: int) -> nn.Sequential:
    """The whole network, images (N, 3, H, W) to logits (N, class_num)."""

    def width(value: int) -> int:  # multiples of 8, never below 90 %
        rounded = max(8, int(value * scale + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * value * scale else rounded

    channels = width(16)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2, 1)]
    for outputs, kernel, stride, attention in _BLOCKS:
        layers.append(conv_bn(channels, channels, kernel, stride, channels))
        if attention:
            layers.append(SqueezeExcitation(channels))
        layers.append(conv_bn(channels, width(outputs), 1, 1, 1))
        channels = width(outputs)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 1280, 1, bias=False), nn.Hardswish()]
    layers += [nn.Dropout(0.2), nn.Flatten(), nn.Linear(1280, class_num)]
    return nn.Sequential(*layers)


def loop(
    scale: float, class_num: int, steps: int, batch_size: int, image_size: int, threads: int
) -> tuple[Callable[[], None], int]:
    """An epoch of forward, backward and step in memory format channels_last; and its parameters."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = pplcnet(scale, class_num).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    images = torch.randn(batch_size, 3, image_size, image_size)
    images = images.to(memory_format=torch.channels_last)  # (N, 3, H, W)
    labels = torch.randint(0, class_num, (batch_size,))

    def epoch() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return epoch, sum(parameter.numel() for parameter in model.parameters())

"""What the CPU kernels save in training a segmentation: `tools/benchmark.py segmentation`.

The same network with Paddle's own operators and with the kernels, on the same batch in memory: one
update each, in turns, so that the ratio holds on a busy machine too. Threads are those of
OMP_NUM_THREADS. Read before: train.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import paddle
from paddle import nn

from experiments.speed.train import Cost
from ppcls_lite import kernels
from ppcls_lite.engine import device
from ppcls_lite.losses.segmentation import SegCELoss
from ppcls_lite.models.create import create_model
from ppcls_lite.system.timing import in_turns

RATE = 0.01
STOCK, KERNELS = "Paddle as it is", "kernels"


def updates(options: argparse.Namespace, with_kernels: bool) -> Callable[[], Cost]:
    """One update of the network: forward, loss, backward, step."""
    paddle.seed(0)
    width, height = options.size
    model = create_model(options.arch, class_num=options.classes)
    loss = SegCELoss()
    kernels.prepare(nn.LayerList([model, loss]), "on" if with_kernels else "off", "cpu")
    learnt = [p for p in model.parameters() if not p.stop_gradient]
    optimizer = paddle.optimizer.Momentum(RATE, 0.9, learnt, weight_decay=4e-5)
    image = paddle.randn([options.batch_size, 3, height, width])
    mask = paddle.randint(0, options.classes, [options.batch_size, height, width])
    batch = {"image": image, "mask": mask.astype("uint8")}
    model.train()

    def update() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        (term,) = loss(model(image), batch).values()
        term.backward()
        optimizer.step()
        optimizer.clear_grad()
        float(term)
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)

    return update


def run(argv: list[str]) -> int:
    """Measure and print; exit status 1 if the kernels are slower than `--at-least` times Paddle."""
    options = _parser().parse_args(argv)
    device.select("cpu")
    width, height = options.size
    print(f"{options.arch}, batches of {options.batch_size} images of {width}x{height}, on a CPU")
    contenders = {STOCK: updates(options, False), KERNELS: updates(options, True)}
    return compared(contenders, options.rounds, options.at_least)


def compared(contenders: dict[str, Callable[[], Cost]], rounds: int, at_least: float) -> int:
    """Take the two contenders in turns and print what they cost, and the ratios."""
    costs = in_turns(contenders, rounds)
    for name, measured in costs.items():
        wall = statistics.median(cost.wall for cost in measured)
        cpu = statistics.median(cost.cpu for cost in measured)
        print(f"{name:16} {wall:7.3f} s an update, {cpu:7.3f} s of processor")
    pairs = list(zip(*costs.values()))
    wall = statistics.median(stock.wall / own.wall for stock, own in pairs)
    cpu = statistics.median(stock.cpu / own.cpu for stock, own in pairs)
    print(f"kernels: {wall:.2f}x by the clock, {cpu:.2f}x by processor time (medians of the turns)")
    return int(cpu < at_least)


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="benchmark.py segmentation", description=text)
    parser.add_argument("--arch", default="deeplabv3p_PPLCNet_x0_5", help="a network of the zoo")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 256), metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--at-least", type=float, default=0.0, help="smallest ratio that passes")
    return parser

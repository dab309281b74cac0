"""How fast images become batches: `tools/benchmark.py data`.

Contenders, one after another in every round so that a busy machine slows all of them alike:

- decode:   reading and decoding the files, nothing else: the limit for any pipeline;
- toolkit:  the ImageNet training recipe (decode, random crop 224, flip, normalise) through the
            Loader without worker processes, up to Paddle tensors;
- naive:    the same with per-image normalisation in plain numpy, stacking, copying;
- N workers: the Loader with worker processes.

All but the last use one core. Aims: toolkit >= 75 % of decode and >= 1.6 times naive.
Read next: data/loader.py.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import paddle

from ppcls_lite.data.datasets import LabeledDataset
from ppcls_lite.data.files import walk_images
from ppcls_lite.data.image_list import PathList, read_image_list
from ppcls_lite.data.loader import Loader
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.data.transforms.crop import RandCropImage
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.data.transforms.normalize import IMAGENET_MEAN, IMAGENET_STD, NormalizeImage
from ppcls_lite.data.transforms.orientation import RandFlipImage
from ppcls_lite.errors import UserError
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.timing import in_turns, median_ratio, seconds

AIM = 0.75  # of decoding alone
TIMES = 1.6  # of the naive chain
WIDTH, HEIGHT, QUALITY = 500, 375, 88  # the commonest size in ImageNet; about 110 KB a file


def run(argv: Sequence[str]) -> int:
    """The command line; returns 0, or 1 if the aim is missed.

    Raises:
        UserError: no images where `--data` points.
    """
    options = argparse.ArgumentParser(prog="benchmark.py data", description=__doc__.split("\n")[0])
    options.add_argument("--data", metavar="DIR|LIST", help="JPEGs; default: generated ones")
    options.add_argument("--images", type=int, default=128, help="images a round (128)")
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--rounds", type=int, default=11)
    options.add_argument("--workers", type=int, nargs="*", default=[usable_cores()])
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.data:
            paths, origin = find(args.data), args.data
        else:
            paths, origin = generate(Path(folder), min(args.images, 64)), "generated"
        paths = [paths[i % len(paths)] for i in range(args.images)]
        pixels = [cv2.imread(path).shape[:2] for path in paths]
        size = sum(Path(path).stat().st_size for path in paths) / len(paths)
        width, height = np.mean([p[1] for p in pixels]), np.mean([p[0] for p in pixels])
        print(
            f"{len(paths)} JPEGs ({origin}), on average {width:.0f}x{height:.0f} pixels and "
            f"{size / 1e3:.0f} KB; batches of {args.batch_size}; {args.rounds} rounds, medians"
        )
        return _compare(paths, args.batch_size, args.rounds, args.workers)


def _compare(paths: list[str], batch_size: int, rounds: int, workers: list[int]) -> int:
    cv2.setNumThreads(0)
    dataset = training_set(paths)
    contenders: dict[str, Callable[[int], None]] = {
        "decode": lambda _: decode_only(paths),
        "toolkit": epochs(dataset, batch_size, 0),
        "naive": lambda number: naive(dataset, batch_size, number),
    }
    cores = dict.fromkeys(contenders, 1)
    for count in workers:
        name = f"{count} worker{'s' if count > 1 else ''}"
        contenders[name] = epochs(dataset, batch_size, count)
        cores[name] = count
    measured = in_turns({name: _timed(one) for name, one in contenders.items()}, rounds)
    print(f"{'':12}{'images/s':>10}{'per core':>10}{'of decode':>11}")
    ratios = {}
    for name, times in measured.items():
        rate = len(paths) / statistics.median(times)
        ratios[name] = median_ratio(measured["decode"], times)
        share = ratios[name] / cores[name]
        print(f"{name:12}{rate:10.0f}{rate / cores[name]:10.0f}{share:11.1%}")
    times = median_ratio(measured["naive"], measured["toolkit"])
    aims = ratios["toolkit"] >= AIM, times >= TIMES
    verdicts = ["met" if met else "missed" for met in aims]
    print(f"toolkit against decode: {ratios['toolkit']:.1%}, aim {AIM:.0%}: {verdicts[0]}")
    print(f"toolkit against naive: {times:.2f}x, aim {TIMES:g}x: {verdicts[1]}")
    return 0 if all(aims) else 1


def _timed(contender: Callable[[int], None]) -> Callable[[], float]:
    """A call that returns the seconds of the contender's next epoch."""
    numbers = itertools.count()
    return lambda: seconds(lambda: contender(next(numbers)))[0]


def training_set(paths: list[str], **decode: bool) -> LabeledDataset:
    """The images with the transforms of the ImageNet recipes (configs/_base_/imagenet.yaml).

    `decode` are arguments of DecodeImage.
    """
    operators = [
        DecodeImage(**decode),
        RandCropImage(224),
        RandFlipImage(1),
        NormalizeImage(1 / 255, list(IMAGENET_MEAN), list(IMAGENET_STD), order=""),
    ]
    labels = np.zeros(len(paths), np.int64)
    return LabeledDataset("benchmark", PathList(paths), labels, operators, 1000, 0, [])


def decode_only(paths: list[str]) -> None:
    """Read and decode every file."""
    for path in paths:
        decode_rgb(read_file(path), path)


def naive(dataset: LabeledDataset, batch_size: int, epoch: int) -> None:
    """The chain as one writes it first: everything per image, in float."""
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    rng = np.random.default_rng(epoch)
    *operators, _ = dataset.transforms.ops
    for start in range(0, len(dataset), batch_size):
        images = []
        for path in dataset.paths[start : start + batch_size]:
            sample = {"image": path}
            for operator in operators:
                sample = operator(sample, rng)
            image = (sample["image"].astype(np.float32) * np.float32(1 / 255) - mean) / std
            images.append(image.transpose(2, 0, 1))  # (3, 224, 224)
        paddle.to_tensor(np.stack(images))  # (N, 3, 224, 224)


def generate(folder: Path, count: int) -> list[str]:
    """Write JPEGs with the spectrum of photographs (amplitude ~ 1 / frequency); returns paths.

    The folder need not be there: OpenCV would write nothing, and say nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    fy, fx = np.meshgrid(np.fft.fftfreq(HEIGHT), np.fft.fftfreq(WIDTH), indexing="ij")
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / WIDTH)
    paths = []
    for number in range(count):
        noise = np.fft.fft2(rng.standard_normal((HEIGHT, WIDTH, 3)), axes=(0, 1))
        image = np.fft.ifft2(noise * falloff[..., None], axes=(0, 1)).real  # (H, W, 3)
        image = np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)
        path = str(folder / f"{number}.jpg")
        cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        paths.append(path)
    return paths


def epochs(dataset: LabeledDataset, batch_size: int, workers: int) -> Callable[[int], None]:
    """Reads the epoch whose number it is given, through a Loader."""
    loader = Loader(
        dataset, DistributedBatchSampler(batch_size).bind(len(dataset)), num_workers=workers
    )

    def one(number: int) -> None:
        for _ in loader.epoch(number):
            pass

    return one


def find(data: str) -> list[str]:
    """The images of a folder (with its sub-folders) or of a list file."""
    if Path(data).is_dir():
        paths = [str(Path(data, name)) for name in walk_images(data)]
    else:
        paths = list(read_image_list(data, str(Path(data).parent)).paths)
    if not paths:
        raise UserError(f"--data {data}: no images found there")
    return paths

"""How well shards are mixed, by the number of them that are open at once.

    python -m experiments.speed.shard_mixing

For each `open_shards`: from how many shards a batch's images come; and how many pairs of images
that share a batch in one epoch share one in the next again, against what a full shuffle gives.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import numpy as np

from ppcls_lite.data.shards import ShardIndex, ShardSampler


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("--images", type=int, default=1_281_167, metavar="N", help="in all (ImageNet's)")
    add("--per-shard", type=int, default=1000, metavar="N", help="images in each file (1000)")
    add("--batch-size", type=int, default=256, metavar="N", help="images (256)")
    args = options.parse_args()
    shard = (np.arange(args.images) // args.per_shard).astype(np.int32)
    count = int(shard.max()) + 1
    index = ShardIndex([""] * count, shard, shard, shard, shard, shard)
    print(f"{'open_shards':>11} {'shards in a batch':>18} {'pairs met again':>16}")
    for opened in sorted({1, 4, 8, 16, 64, count}):
        sampler = ShardSampler(batch_size=args.batch_size, shuffle=True, open_shards=opened)
        sampler.see(SimpleNamespace(index=index))
        sampler.bind(args.images)
        first, second = (batch_of(sampler, epoch, args.images) for epoch in (1, 2))
        mixed = len(np.unique(first.astype(np.int64) * count + shard)) / (first.max() + 1)
        again = pairs_in(first.astype(np.int64) * (second.max() + 1) + second) / pairs_in(first)
        print(f"{opened:11,} {mixed:18.1f} {again:16.3%}")
    print(f"{'chance':>11} {'':18} {(args.batch_size - 1) / (args.images - 1):16.3%}")


def batch_of(sampler: ShardSampler, epoch: int, images: int) -> np.ndarray:
    """(n,) the number of the batch that each image is in."""
    batch = np.empty(images, np.int32)
    steps = list(sampler.batches(epoch))
    places = np.fromiter((key.index for step in steps for key in step), np.int64, images)
    batch[places] = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    return batch


def pairs_in(groups: np.ndarray) -> int:
    """How many pairs of images have the same group."""
    sizes = np.unique(groups, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


if __name__ == "__main__":
    main()

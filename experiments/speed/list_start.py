"""What a start takes for a list of millions: time, memory, and that workers share it.

    python -m experiments.speed.list_start --lines 14000000

There are no millions of files: the folders of the classes are links to one folder of empty files,
which the scan lists once for each class, as it would list theirs.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from ppcls_lite.config.check import build_list
from ppcls_lite.data.datasets import ImageNetDataset
from ppcls_lite.data.samplers import DistributedBatchSampler
from ppcls_lite.data.scan import scan
from ppcls_lite.system.machine import cpu_model

CLASSES = 21_841  # of ImageNet-21k
OPS = [{"DecodeImage": {}}, {"RandCropImage": {"size": 224}}, {"NormalizeImage": {"order": ""}}]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lines", type=int, default=14_000_000, metavar="N", help="of the list")
    lines = options.parse_args().lines
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_list(root, lines)
        base = peak()
        clock, cpu = time.perf_counter(), time.process_time()
        dataset = ImageNetDataset(str(root), str(root / "list.txt"), build_list(OPS, "transform"))
        steps = {"list": time.process_time() - cpu}
        report = scan({"Train": dataset})
        steps["scan"] = time.process_time() - cpu - sum(steps.values())
        dataset.digests()
        steps["check sums"] = time.process_time() - cpu - sum(steps.values())
        sampler = DistributedBatchSampler(batch_size=256, shuffle=True)
        sampler.see(dataset)
        sampler.bind(len(dataset))
        next(sampler.numbered(1, 0))
        steps["first batch's numbers"] = time.process_time() - cpu - sum(steps.values())
        wall = time.perf_counter() - clock
        assert not report.errors and len(dataset) == lines, report.errors[:3]
        print(f"{cpu_model()}, one core")
        print(f"{lines:,} lines: processor {sum(steps.values()):.1f} s, clock {wall:.1f} s")
        print(f"memory {peak():.2f} GB at most, of which {base:.2f} before it began")
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items()))
        print(f"a worker that has read every path and label added {worker(dataset):.2f} GB")


def write_list(root: Path, lines: int) -> None:
    """`list.txt`, and the files that it names."""
    each = -(-lines // CLASSES)
    names = [f"n01440764_{number}.JPEG" for number in range(each)]
    (root / "files").mkdir()
    for name in names:
        (root / "files" / name).touch()
    with (root / "list.txt").open("w") as stream:
        for number in range(CLASSES):
            folder = f"n{number:08d}"
            (root / folder).symlink_to("files")
            count = min(each, max(0, lines - number * each))
            stream.writelines(f"{folder}/{name} {number}\n" for name in names[:count])


def peak() -> float:
    """Gigabytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def worker(dataset: ImageNetDataset) -> float:
    """Gigabytes of its own that a forked process has after it has read all of the list."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        for place in range(0, len(dataset), 97):  # more often than once a memory page
            dataset.annotate(place)
            dataset.paths[place]
        fields = dict(
            line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        )
        os.write(theirs, fields["Private_Dirty"].split()[0].encode())
        os._exit(0)
    os.wait()
    return int(os.read(ours, 100)) / 2**20


if __name__ == "__main__":
    main()

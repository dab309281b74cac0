"""A segmenter in one file: a class for each pixel, over a trunk of the zoo.

Everything that makes the problem a segmentation is here, as the parts of any plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite import register
from ppcls_lite.config.schema import NonNegativeInt, PositiveInt, TransformSpec, TrunkSpec
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.transforms.geometry import MASK_FILL, Meta
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.inference.agreement import Agreement
from ppcls_lite.inference.postprocess.base import Column, Postprocess, Result
from ppcls_lite.inference.spec import OutputKind, Outputs
from ppcls_lite.losses.base import Loss
from ppcls_lite.metrics.base import CountingMetric, State
from ppcls_lite.models.network import Network


@register("model")
class ToySegmenter(Network):
    """A trunk's first stage beside a convolution of the pixels themselves.

    class_num: kinds of pixels. backbone: the trunk; its first stage has the stride 4.
    """

    outputs = ("classes",)

    def __init__(self, class_num: PositiveInt, backbone: TrunkSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.near = nn.Sequential(nn.Conv2D(3, 12, 3, padding=1), nn.ReLU())
        self.far = nn.Sequential(nn.Conv2D(backbone.channels[0], 12 * 4 * 4, 1), nn.PixelShuffle(4))
        self.fuse = nn.Sequential(
            nn.Conv2D(24, 16, 3, padding=1),
            nn.BatchNorm2D(16),
            nn.ReLU(),
            nn.Conv2D(16, class_num, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, C, H, W)."""
        far = self.far(self.backbone.forward_stages(x)[0])  # (N, 12, H, W)
        return self.fuse(paddle.concat([self.near(x), far], axis=1))

    def deployed(self, x: Tensor) -> list[Tensor]:
        return [self(x).argmax(axis=1).astype("int32")]  # (N, H, W)


@register("dataset")
class ToyMasks(ImageDataset):
    """The images of `root/images`, and of the same name in `root/masks` the class of each pixel."""

    batch_keys = ("image", "mask")

    def __init__(
        self,
        root: str,
        transform_ops: list[TransformSpec],
        class_num: PositiveInt | None = None,
        seed: NonNegativeInt = 0,
    ) -> None:
        paths = sorted(map(str, Path(root, "images").glob("*.png")))
        problems = [] if paths else [f"{root}: there are no images"]
        super().__init__(root, paths, transform_ops, class_num, seed, problems)
        self.masks = [str(Path(root, "masks", Path(path).name)) for path in paths]

    def annotate(self, index: int) -> dict[str, Any]:
        path = self.masks[index]
        return {"mask": decode_rgb(read_file(path), path)[..., 0]}  # (H, W)

    def files(self) -> list[str]:
        return [*self.paths, *self.masks]


@register("loss")
class ToyPixelLoss(Loss):
    """Cross entropy, a mean over the pixels that have a class. weight: of the term."""

    divides_by = "labels"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = batch["mask"].astype("int64")
        entropy = F.cross_entropy(outputs, mask, ignore_index=MASK_FILL, axis=1, reduction="sum")
        return {"ToyPixel": self.weight * entropy / self.denominator(batch).clip(min=1)}

    def denominator(self, batch: Mapping[str, Tensor]) -> Tensor:
        return (batch["mask"] != MASK_FILL).astype("float32").sum()


@register("metric")
class ToyOverlap(CountingMetric):
    """`miou`: shared pixels over joint pixels of each class, the mean over the classes."""

    main, reports = "miou", True

    def __init__(self, class_num: PositiveInt) -> None:
        super().__init__()
        self.class_num = class_num

    def collect(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> None:
        truth = batch["mask"].numpy().astype(np.int64)
        found = outputs.argmax(axis=1).numpy()
        pairs = (truth * self.class_num + found)[truth != MASK_FILL]
        counts = np.bincount(pairs, minlength=self.class_num**2)
        self.add(pixels=counts.reshape(self.class_num, self.class_num))  # truth, found

    def compute(self, state: State) -> dict[str, float]:
        pixels = state["pixels"]
        shared = pixels.diagonal()
        joint = np.maximum(pixels.sum(axis=0) + pixels.sum(axis=1) - shared, 1)
        return {"miou": float((shared / joint).mean())}

    def report(self, folder: Path, names: Sequence[str] | None) -> list[Path]:
        path = folder / "overlap.txt"
        path.write_text(f"{self.state()['pixels']}\n", encoding="utf-8")
        return [path]


@register("postprocess")
class ToyMaskOutput(Postprocess):
    """How many of the photograph's pixels each class covers, and their mask as run lengths."""

    columns = (Column("kind", "kind", width=4), Column("pixels", "pixels", width=8))

    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        results = []
        for number, mask in enumerate(outputs["classes"]):
            kinds, counts = np.unique(self._placed(mask, metas, number), return_counts=True)
            results.append({"kinds": kinds.tolist(), "pixels": counts.tolist()})
        return results

    def _placed(self, mask: np.ndarray, metas: Sequence[Meta], number: int) -> np.ndarray:
        """The mask (H, W) in the pixels of the photograph."""
        if not metas:
            return mask
        meta = metas[number]
        move = meta.source.copy()
        move[:, 2] += move[:, :2].sum(axis=1) * 0.5 - 0.5  # OpenCV counts from a pixel's centre
        size = meta.width, meta.height
        placed = cv2.warpAffine(mask.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST)
        return placed.astype(int)

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        return list(zip(result["kinds"], result["pixels"]))

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """Nothing but whole numbers: what counts is how many pixels differ."""
        differs = (reference["classes"] != found["classes"]).mean(axis=(1, 2))  # (N,)
        return Agreement(differs, differs, differs, 1 - differs, "class of the pixels")

"""Class scores to answers: class ids, scores and names, or the scores themselves.

The result dicts have PaddleClas's keys. Plain NumPy, so that prediction needs no training code.
Read before: base.py. Read next: attributes.py, ppcls_lite/data/labels.py.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import (
    ClassCount,
    Ignored,
    NonNegativeInt,
    PositiveFloat,
    Probability,
)
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.inference.agreement import Agreement, relative_difference
from ppcls_lite.inference.postprocess.base import Column, Postprocess, Result, softmax
from ppcls_lite.inference.spec import OutputKind, Outputs

_SMALLEST_PROBABILITY = 1e-20  # Paddle's softmax clips at exp(-64), oneDNN's does not


class ClassScores(Postprocess):
    """Of networks with one output (N, classes); a result without classes is one row of JSON."""

    activation = "softmax"
    columns = (
        Column("class_id", "class", width=6),
        Column("score", "score", width=6, digits=4),
        Column("label_name", "label"),
    )
    class_num: int | None = None  # where the answers only make sense for so many outputs

    def __call__(self, outputs: Outputs, metas: Sequence[Meta] = ()) -> list[Result]:
        """Results in the order of the rows; raises UserError for a wrong number of classes."""
        scores = _scores(outputs)
        self.check(scores.shape[1])
        return [self.one(row) for row in scores.astype(np.float64)]

    @abstractmethod
    def one(self, row: np.ndarray) -> Result:
        """The result of one image's scores (C,)."""

    def check(self, found: int) -> None:
        """Raise UserError if a network of so many classes does not fit."""
        if self.class_num not in (None, found):
            raise UserError(
                f"{type(self).__name__} is for {self.class_num} outputs, the network has {found}: "
                "choose another Infer.PostProcess, for example Topk"
            )

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        rest = {key: value for key, value in result.items() if key != "file"}
        return [("", "", json.dumps(rest, ensure_ascii=False))]

    def describe(self, outputs: Outputs, kind: OutputKind) -> str:
        return f"{kind} of {_scores(outputs).shape[1]} classes"

    def agreement(
        self, reference: Outputs, found: Outputs, kind: OutputKind = "probabilities"
    ) -> Agreement:
        """The answer is the best class."""
        before, after = _scores(reference), _scores(found)
        difference = relative_difference(reference, found)
        chosen = np.take_along_axis(before, after.argmax(axis=1)[:, None], axis=1)
        largest = np.abs(before).max(axis=1, keepdims=True) + np.finfo(np.float32).tiny  # (N, 1)
        lost = (before.max(axis=1, keepdims=True) - chosen) / largest
        if kind == "logits":
            before, after = softmax(before), softmax(after)
        else:
            # A saturated softmax hides wrong logits in its largest entry; the small ones show them.
            logs = [np.log(np.maximum(p, _SMALLEST_PROBABILITY)) for p in (before, after)]
            span = np.maximum(1.0, -logs[0].min(axis=1))  # (N,)
            difference = np.maximum(difference, np.abs(logs[1] - logs[0]).max(axis=1) / span)
        distance = np.abs(after - before).max(axis=1)
        return Agreement(difference, distance, lost[:, 0], _lead(before), "best class")


class Classes(ClassScores):
    """Results with `class_ids`, `scores` and `label_names`: one row a class."""

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        ids, scores = result["class_ids"], result["scores"]
        labels = result["label_names"] or [""] * len(ids)
        return list(zip(ids, scores, labels, strict=True)) or [("", "", "(no class)")]

    def is_right(self, result: Result, label: str) -> bool | None:
        """Of a class id, or a class's name, against the best class."""
        first = (result["class_ids"][:1], result["label_names"][:1])
        return int(label) in first[0] if label.isdecimal() else label in first[1]


@dataclass
class _Labelled(Classes):
    """With names from a file, or given as a list (as an exported model carries them)."""

    _: KW_ONLY
    class_id_map_file: str | None = None
    delimiter: str | None = None
    label_list: list[str] | None = None

    def __post_init__(self) -> None:
        self._source = "label_list"
        if self.label_list is None and self.class_id_map_file is not None:
            self.label_list = read_label_file(self.class_id_map_file, self.delimiter)
            self._source = self.class_id_map_file

    def check(self, found: int) -> None:
        if self.label_list is not None and len(self.label_list) != found:
            raise UserError(
                f"{self._source} names {len(self.label_list)} classes, the network has {found}: "
                "set Infer.PostProcess.class_id_map_file to the label file it was trained with, "
                "or to null for answers without names"
            )
        super().check(found)

    def _result(self, ids: np.ndarray, row: np.ndarray) -> Result:
        names = [self.label_list[i] for i in ids] if self.label_list is not None else []
        scores = row[ids].round(5)
        return {"class_ids": ids.tolist(), "scores": scores.tolist(), "label_names": names}


@dataclass
class _Best(_Labelled):
    """The best classes of an image, or none where the best is not certain enough.

    temperature: scores become softmax(logits / temperature); null: as they are. reject_below: the
    score of the best class below which the answer is `unknown`: no class, and the best ones under
    `guess`; null: there is always an answer.
    """

    _: KW_ONLY
    temperature: PositiveFloat | None = None
    reject_below: Probability | None = None

    def one(self, row: np.ndarray) -> Result:
        if self.temperature is not None:
            row = _tempered(row, self.temperature)
        ids = np.argsort(-row, kind="stable")[: self.topk]
        answer = self._result(ids, row)
        if self.reject_below is None or row[ids[0]] >= self.reject_below:
            return answer
        return {**self._result(ids[:0], row), "unknown": True, "guess": answer}

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        if "guess" in result:
            return [("", result["guess"]["scores"][0], "(unknown)")]
        return super().rows(result)


@register("postprocess")
@dataclass
class Topk(_Best):
    """The k most probable classes, the best first (all of them if there are fewer)."""

    topk: ClassCount = 1


@register("postprocess")
@dataclass
class DistillationPostProcess(_Best):
    """PaddleClas's post-processing of a distillation's network: `Topk` of what ships.

    Only the network of `Arch.infer_model_name` is predicted with or exported, so there is none to
    choose; for other answers than the k best, name that post-processing itself.
    """

    model_name: Ignored = "Student"
    key: Ignored = None
    func: Literal["Topk"] = "Topk"
    topk: ClassCount = 1


@register("postprocess")
@dataclass
class MultiLabelThreshOutput(_Labelled):
    """All classes whose probability reaches the threshold, in the order of their ids.

    reject_below: of each class, how probable it has to be that it is there, or that it is not, for
    an answer; the others are under `unsure`. null: every class is answered.
    """

    threshold: Probability = 0.5
    _: KW_ONLY
    reject_below: list[Probability] | None = None
    activation = "sigmoid"

    def check(self, found: int) -> None:
        super().check(found)
        if self.reject_below is not None and len(self.reject_below) != found:
            raise UserError(
                f"reject_below: expected a number for each of the {found} classes, found "
                f"{len(self.reject_below)}"
            )

    def one(self, row: np.ndarray) -> Result:
        there = row >= self.threshold
        if self.reject_below is None:
            return self._result(np.flatnonzero(there), row)
        open_ = np.where(there, row, 1 - row) < self.reject_below  # (C,)
        answer = self._result(np.flatnonzero(there & ~open_), row)
        unsure = {"unsure": self._result(np.flatnonzero(open_), row)} if open_.any() else {}
        return {**answer, **unsure, **({"unknown": True} if open_.all() else {})}

    def rows(self, result: Result) -> list[tuple[Any, ...]]:
        left_open = result.get("unsure")
        if left_open is None:
            return super().rows(result)
        answered = super().rows(result) if result["class_ids"] else []
        named = [(i, s, f"(unsure) {name}".strip()) for i, s, name in super().rows(left_open)]
        return answered + named

    def is_right(self, result: Result, label: str) -> bool | None:
        """Of attributes such as `0,1,0`, all of which count that have an answer."""
        known = label.replace(" ", "").split(",")
        if not {*known} <= {"0", "1"}:
            return None
        left_open = result.get("unsure", {"class_ids": []})["class_ids"]
        there = [i for i, there in enumerate(known) if there == "1" and i not in left_open]
        return result["class_ids"] == there


@register("postprocess")
@dataclass
class ThreshOutput(Classes):
    """Of two classes: class 1 where its probability reaches the threshold, else class 0."""

    threshold: Probability = 0.5
    label_0: str = "0"
    label_1: str = "1"
    class_num = 2

    def one(self, row: np.ndarray) -> Result:
        score = float(row[1])
        chosen = int(score >= self.threshold)
        return {
            "class_ids": [chosen],
            "scores": [score if chosen else 1 - score],
            "label_names": [(self.label_0, self.label_1)[chosen]],
        }


@register("postprocess")
@dataclass
class ScoreOutput(ClassScores):
    """The network's raw outputs, rounded."""

    decimal_places: NonNegativeInt = 5
    activation = "none"

    def one(self, row: np.ndarray) -> Result:
        return {"scores": row.round(self.decimal_places).tolist()}


def _tempered(row: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (C,) of the same logits divided by `temperature`."""
    logs = np.log(np.maximum(row, _SMALLEST_PROBABILITY)) / temperature
    return softmax(logs[None])[0]


def _scores(outputs: Outputs) -> np.ndarray:
    """The one output, (N, classes)."""
    if len(outputs) != 1:
        raise UserError(
            f"the network gives {', '.join(outputs)}; expected one output, the scores of classes: "
            "choose a post-processing for them (Infer.PostProcess)"
        )
    (scores,) = outputs.values()
    if scores.ndim != 2:
        raise UserError(
            f"the network gives the shape {scores.shape}; expected (N, classes): was it built "
            "without a classifier (class_num 0)?"
        )
    return scores


def _lead(scores: np.ndarray) -> np.ndarray:
    """(N,): how far the best class is ahead of the second, relative to the best."""
    if scores.shape[1] < 2:
        return np.ones(len(scores))
    second, first = np.sort(scores, axis=1)[:, -2:].T
    return (first - second) / (np.abs(first) + np.finfo(np.float32).tiny)

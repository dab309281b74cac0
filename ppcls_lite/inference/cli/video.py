"""`predict --input clip.mp4`: frame after frame, with the answers drawn into another video.

OpenCV reads and writes; what it cannot read is a UserError before the network is loaded. A video
that is cut short, by Ctrl-C as well, is whole up to there. Read before: predict.py.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ppcls_lite.errors import UserError
from ppcls_lite.inference.output_names import OutputNames
from ppcls_lite.system.files import move

if TYPE_CHECKING:
    from ppcls_lite.inference.cli.output import ResultFile
    from ppcls_lite.inference.pipeline import Observer
    from ppcls_lite.inference.predictor import Predictor

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
_FRAMES_A_SECOND = 25.0  # where a file does not say
_CODEC = "mp4v"  # MPEG-4, which OpenCV's wheels carry
_NOT_FOR_VIDEO = ("slice", "save", "save_png", "resume")


class Film(NamedTuple):
    """A video file as its head describes it; `frames` is an estimate, 0: unknown."""

    path: Path
    rate: float
    frames: int


def films_of(args: argparse.Namespace) -> list[Film]:
    """The videos of `--input`; none where it names no video.

    Raises UserError for a video beside images, for options that are for images alone, and for a
    file that OpenCV cannot read.
    """
    paths = [Path(source) for source in args.input]
    videos = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not videos:
        return []
    if len(videos) < len(paths):
        other = next(path for path in paths if path not in videos)
        raise UserError(
            f"--input: {videos[0]} is a video and {other} is none; predict them one after the other"
        )
    for name in _NOT_FOR_VIDEO:
        if getattr(args, name):
            option = name.replace("_", "-")
            raise UserError(f"--{option}: is for images, and {videos[0]} is a video")
    if args.output and Path(args.output).suffix.lower() == ".csv":
        raise UserError(
            f"--output {args.output}: the answers for a video need a .jsonl file, whose lines say "
            "the frame"
        )
    if not args.output and not args.draw:
        raise UserError(
            f"{videos[0]} is a video: --draw DIR or --output FILE.jsonl takes the answers"
        )
    return [_opened(path) for path in videos]


def _opened(path: Path) -> Film:
    with _capture(path) as capture:
        readable, _ = capture.read()
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if not readable:
        raise UserError(
            f"{path}: OpenCV {cv2.__version__} reads no frame of it: it is damaged, no video, or "
            "coded as this OpenCV does not know; another tool can convert it, for example "
            f"ffmpeg -i {path.name} -c:v mpeg4 other.mp4"
        )
    known = np.isfinite(rate) and rate > 0
    return Film(path, float(rate) if known else _FRAMES_A_SECOND, max(0, int(count)))


@contextlib.contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are said by us
    capture = cv2.VideoCapture(str(path))
    try:
        yield capture
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(level)


class FilmWriter:
    """Writes frames (H, W, 3) uint8 RGB into an MP4 file, which has its name when it is whole.

    A film without a frame leaves nothing. Raises UserError where OpenCV cannot write it.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self._rate = path, rate
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.release()  # writes the index, without which nothing plays it
            move(self._part, self.path)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame of the size of the first one."""
        if self._writer is None:
            self._writer = self._begin(frame.shape[1], frame.shape[0])
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def _begin(self, width: int, height: int) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter.fourcc(*_CODEC)
        writer = cv2.VideoWriter(str(self._part), code, self._rate, (width, height))
        if not writer.isOpened():
            raise UserError(
                f"{self.path}: OpenCV {cv2.__version__} cannot write {width} x {height} pixels as "
                "MPEG-4 there; without --draw the answers still go to --output"
            )
        return writer


def predict_films(
    predictor: Predictor,
    films: Sequence[Film],
    file: ResultFile | None,
    drawn: Path | None,
    batch_size: int,
    observe: Observer,
) -> None:
    """Predict all frames of the films, `batch_size` at once, as `Predictor.stream` does.

    A result is an image's, with `frame`, from 0, and `seconds`. drawn: a folder for videos with
    the answers.
    """
    names = OutputNames([film.path for film in films])
    if drawn:
        names.require_other(drawn)
    for film in films:
        path = drawn / f"{names.stem(film.path)}.mp4" if drawn else None
        _predict_film(predictor, film, file, path, batch_size, observe)


def _predict_film(
    predictor: Predictor,
    film: Film,
    file: ResultFile | None,
    path: Path | None,
    batch_size: int,
    observe: Observer,
) -> None:
    done = 0
    with contextlib.ExitStack() as stack:
        frames, copies = itertools.tee(_frames(stack.enter_context(_capture(film.path))))
        out = stack.enter_context(FilmWriter(path, film.rate)) if path else None
        total = film.frames or None
        bar = stack.enter_context(tqdm(total=total, unit="frame", desc=film.path.name))
        results = predictor.stream((frame for frame, _ in frames), batch_size, False, observe)
        for (frame, seconds), result in zip(copies, results):
            if file:
                place = {"file": str(film.path), "frame": done, "seconds": round(seconds, 3)}
                file.write({**place, **{k: v for k, v in result.items() if k != "file"}})
            if out:
                out.write(predictor.postprocess.draw(frame, result))
            done += 1
            bar.update()
    if done < film.frames:
        print(f"{film.path}: ends after {done} of {film.frames} frames")


def _frames(capture: cv2.VideoCapture) -> Iterator[tuple[np.ndarray, float]]:
    """Frames (H, W, 3) uint8 RGB, upright, each with its time in seconds."""
    while True:
        found, frame = capture.read()
        if not found:
            return
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3  # of the frame just read
        yield np.ascontiguousarray(frame[..., ::-1]), seconds

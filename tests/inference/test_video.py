"""`predict` of a video: every frame answered and drawn, and what happens when it ends early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.predict import run
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.predictor import Predictor

FRAMES, RATE, SIZE = 7, 12.5, (96, 80)  # width, height


def make_video(path: Path, frames: int = FRAMES) -> Path:
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, SIZE)
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MPEG-4")
    for i in range(frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), (30 * i, 90, 200 - 20 * i), np.uint8))
    writer.release()
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames, rate


@pytest.fixture
def predict(exported: Any) -> Any:
    def call(*arguments: object) -> int:
        return run(["--model", str(exported.folder), "--threads", "1", *map(str, arguments)])

    return call


def test_each_frame_is_answered_and_drawn(
    predict: Any, exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = make_video(tmp_path / "in" / "clip.avi.mp4"), tmp_path / "answers.jsonl"
    options = ("--output", out, "--draw", tmp_path / "drawn", "--batch-size", 3)
    assert predict("--input", video, *options) == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["frame"] for line in lines] == list(range(FRAMES))
    assert [line["seconds"] for line in lines] == [round(i / RATE, 3) for i in range(FRAMES)]
    assert {line["file"] for line in lines} == {str(video)}
    before, _ = read_video(video)
    with Predictor(exported.folder, threads=1) as predictor:
        expected = predictor.predict([frame[..., ::-1].copy() for frame in before])
        assert [line["class_ids"] for line in lines] == [r["class_ids"] for r in expected]
        wanted = [predictor.postprocess.draw(f[..., ::-1], r) for f, r in zip(before, expected)]
    drawn, rate = read_video(tmp_path / "drawn" / "clip.avi.mp4")
    assert len(drawn) == FRAMES and rate == RATE
    for found, picture in zip(drawn, wanted, strict=True):  # but for the compression
        assert np.abs(found[..., ::-1].astype(int) - picture).mean() < 6
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["clip.avi.mp4"]
    assert "ms per frame" in capsys.readouterr().out


def test_a_video_that_is_interrupted_plays_up_to_there(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = Topk.draw, []

    def stop_at_the_fifth(self: Topk, image: np.ndarray, result: Any) -> np.ndarray:
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(1)
        return draw(self, image, result)

    monkeypatch.setattr(Topk, "draw", stop_at_the_fifth)
    video, out = make_video(tmp_path / "in" / "a.mp4"), tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        predict("--input", video, "--draw", tmp_path / "drawn", "--output", out)
    assert len(read_video(tmp_path / "drawn" / "a.mp4")[0]) == 4
    assert len(out.read_text(encoding="utf-8").splitlines()) == 5


def test_a_cut_file_is_answered_up_to_there(
    predict: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), RATE, SIZE)
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    writer.release()
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    assert predict("--input", video, "--output", tmp_path / "a.jsonl") == 0
    count = len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines())
    assert 5 < count < 20
    assert f"a.avi: ends after {count} of 20 frames" in capsys.readouterr().out


def test_what_cannot_be_done_is_said_before_the_network_is_loaded(
    predict: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppcls_lite.inference.cli.predict._load", None)
    video, out = make_video(tmp_path / "clip.mp4", 2), ("--output", tmp_path / "a.jsonl")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    for message, *arguments in (
        (r"OpenCV .* reads no frame of it.*ffmpeg -i broken.mp4", "--input", broken, *out),
        (r"clip.mp4 is a video and .*a.png is none", "--input", video, pictures / "a.png", *out),
        ("--slice: is for images, and .*clip.mp4 is a video", "--input", video, "--slice", 32),
        ("--save-png: is for images", "--input", video, "--save-png", tmp_path),
        ("need a .jsonl file", "--input", video, "--output", tmp_path / "a.csv"),
        ("clip.mp4 is a video: --draw DIR or --output FILE.jsonl takes", "--input", video),
    ):
        with pytest.raises(UserError, match=message):
            predict(*arguments)


def test_the_video_itself_is_never_replaced(predict: Any, tmp_path: Path) -> None:
    video = make_video(tmp_path / "clip.mp4", 2)
    before = video.read_bytes()
    with pytest.raises(UserError, match="name another folder"):
        predict("--input", video, "--draw", tmp_path)
    assert video.read_bytes() == before
    with pytest.raises(UserError, match=r"clip\.mp4: no such file"):
        predict("--input", tmp_path / "none" / "clip.mp4", "--draw", tmp_path / "drawn")

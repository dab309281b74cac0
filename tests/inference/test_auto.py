"""engine="auto": the fastest of those that are right, measured once and remembered."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.inference.auto import choose as auto
from ppcls_lite.inference.auto.cache import Choice, ChoiceCache
from ppcls_lite.inference.auto.choose import choose
from ppcls_lite.inference.engines import available_engines
from ppcls_lite.inference.postprocess.classify import Topk
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.inference.spec import InferenceSpec

SHAPE = (1, 3, 64, 64)
SECONDS = {"paddle": 0.004, "openvino": 0.001, "onnxruntime": 0.002}


class Fake:
    """An engine of known speed whose answers are off by `error`."""

    def __init__(self, seconds: float, error: float) -> None:
        self.seconds, self.error = seconds, error

    def run(self, inputs: np.ndarray) -> list[np.ndarray]:
        time.sleep(self.seconds)
        logits = inputs.mean(axis=(2, 3)) * 5
        logits[:, 0] += self.error
        powers = np.exp(logits)
        return [powers / powers.sum(axis=1, keepdims=True)]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Engines of the speeds in `SECONDS`, bf16 twice as fast; values are their errors."""
    errors: dict[str, float] = {}
    made: list[str] = []

    def make(source: Path, name: str, precision: str, *_: Any) -> Fake:
        made.append(f"{name} {precision}")
        half = 0.5 if precision == "bf16" else 1
        return Fake(SECONDS[name] * half, errors.get(f"{name} {precision}", 0.0))

    def precisions(name: str) -> dict[str, str | None]:
        lacks = "this test has none"
        bf16 = None if name == "openvino" else lacks
        return {"fp32": None, "bf16": bf16, "int8": lacks}

    monkeypatch.setattr(auto, "make_engine", make)
    monkeypatch.setattr(auto, "available_precisions", precisions)
    monkeypatch.setattr(auto, "in_the_way", lambda cores: None)  # whatever runs beside the tests
    errors["made"] = made
    return errors


def run(exported_both: Any, cache: Path, **options: Any) -> Choice:
    spec = InferenceSpec.read(exported_both.folder)
    options = {"threads": 1, "budget_s": 1.0, "cache": ChoiceCache(cache), **options}
    return choose(exported_both.folder, spec, SHAPE, **options)


def test_the_fastest_wins(fakes: Any, exported_both: Any, tmp_path: Path) -> None:
    choice = run(exported_both, tmp_path)
    assert (choice.engine, choice.precision) == ("openvino", "bf16")
    assert next(iter(choice.milliseconds)) == "paddle fp32" and len(choice.milliseconds) == 4
    assert "openvino int8" in choice.left_out and not choice.remembered
    assert "auto: openvino bf16, the fastest that is right" in str(choice)


def test_a_wanted_precision_is_kept(fakes: Any, exported_both: Any, tmp_path: Path) -> None:
    choice = run(exported_both, tmp_path, precision="fp32")
    assert (choice.engine, choice.precision) == ("openvino", "fp32")


def test_wrong_answers_do_not_win(fakes: Any, exported_both: Any, tmp_path: Path) -> None:
    fakes |= {"openvino fp32": 0.05, "openvino bf16": 2.0}
    choice = run(exported_both, tmp_path)
    assert choice.engine == "onnxruntime"
    assert "differs from the reference" in choice.left_out["openvino fp32"]
    assert "too far from fp32" in choice.left_out["openvino bf16"]


def test_a_little_rounding_is_for_bf16_only(fakes: Any, exported_both: Any, tmp_path: Path) -> None:
    fakes |= {"openvino fp32": 0.02, "openvino bf16": 0.02}
    choice = run(exported_both, tmp_path)
    assert (choice.engine, choice.precision) == ("openvino", "bf16")
    assert "openvino fp32" in choice.left_out


def test_the_steadiest_under_load_wins_where_that_is_asked(
    fakes: Any, exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine is fast but answers one caller at a time; a slower one answers all at once."""
    queue = threading.Lock()
    real = Fake.run

    def run_in_turn(self: Fake, inputs: np.ndarray) -> list[np.ndarray]:
        with queue if self.seconds == SECONDS["openvino"] else contextlib.nullcontext():
            return real(self, inputs)

    monkeypatch.setattr(Fake, "run", run_in_turn)
    monkeypatch.setattr(auto, "usable_cores", lambda: 8)
    monkeypatch.setitem(SECONDS, "paddle", 0.06)  # far from the others, as delays of a machine are
    options = {"precision": "fp32", "budget_s": 4.0}  # enough on a busy machine
    alone = run(exported_both, tmp_path, **options)
    assert (alone.engine, alone.by) == ("openvino", "auto")
    loaded = run(exported_both, tmp_path, **options, by="auto-p99")
    assert (loaded.engine, loaded.by) == ("onnxruntime", "auto-p99")
    assert loaded.milliseconds["openvino fp32"] > 5 * alone.milliseconds["openvino fp32"]
    assert "99 of 100 answers" in str(loaded)
    again = run(exported_both, tmp_path, **options, by="auto-p99")
    assert again.remembered and str(again) == f"{loaded}; as measured before"
    assert run(exported_both, tmp_path, **options).engine == "openvino"  # each of its own


def test_a_measuring_child_is_heard_once_and_here(
    exported_both: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its lines come through this process's log, none past it on standard error."""
    heard = auto._Kept()
    monkeypatch.setattr(auto.logger, "handlers", [heard])
    monkeypatch.setattr(auto.logger, "propagate", False)
    before = auto.logger.level
    auto.logger.setLevel(logging.INFO)
    try:
        choice = run(exported_both, tmp_path, apart=True)
    finally:
        auto.logger.setLevel(before)
    assert [text for _, text in heard.said if "the fastest that is right" in text] == [str(choice)]
    assert "auto:" not in capfd.readouterr().err
    if "openvino int8" in choice.left_out:
        reason = "the folder has no int8 network (ppcls-lite quantize)"
        assert str(choice).count(reason) <= 1


def test_equals_keep_the_precision() -> None:
    pairs = [("paddle", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
    times = {"paddle fp32": 2.0, "openvino fp32": 1.01, "openvino bf16": 1.0}
    assert auto._fastest(times, pairs) == ("openvino", "fp32")
    times["openvino bf16"] = 0.9
    assert auto._fastest(times, pairs) == ("openvino", "bf16")


def test_a_choice_is_remembered_until_something_changes(
    fakes: Any, exported_both: Any, tmp_path: Path
) -> None:
    first = run(exported_both, tmp_path / "cache")
    made = len(fakes["made"])
    again = run(exported_both, tmp_path / "cache")
    assert again.remembered and len(fakes["made"]) == made
    assert (again.engine, again.milliseconds) == (first.engine, first.milliseconds)
    assert not run(exported_both, tmp_path / "cache", threads=2).remembered
    copy = tmp_path / "other"
    shutil.copytree(exported_both.folder, copy)
    cache, spec = ChoiceCache(tmp_path / "cache"), InferenceSpec.read(copy)
    assert choose(copy, spec, SHAPE, 1, budget_s=0.5, cache=cache).remembered  # same content
    (copy / "inference.onnx").write_bytes((copy / "inference.onnx").read_bytes() + b"\0\0")
    assert cache.read(cache.key(copy, SHAPE, 1, None), copy) is None


def test_what_a_busy_machine_left_out_is_measured_next_time(
    fakes: Any, exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "in_the_way", lambda cores: "busy")
    assert len(run(exported_both, tmp_path / "busy", budget_s=0.0).milliseconds) == 1
    assert len(run(exported_both, tmp_path / "busy").milliseconds) == 4
    monkeypatch.setattr(auto, "in_the_way", lambda cores: None)
    run(exported_both, tmp_path / "quiet", budget_s=0.0)
    assert run(exported_both, tmp_path / "quiet").remembered


def test_a_spoiled_or_locked_cache_costs_only_time(
    fakes: Any, exported_both: Any, tmp_path: Path
) -> None:
    run(exported_both, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.json")
    assert json.loads(file.read_text())["engine"] == "openvino"
    whole = json.loads(file.read_text())
    damages = [
        {"engine": "x"},
        {"engine": ["paddle"]},
        {"precision": {}},
        {"milliseconds": 3},
        {"milliseconds": {"paddle fp32": "fast"}},
        {"left_out": ["a"]},
        {"converted": "../../x.onnx"},
        {"converted": 5},
    ]
    for text in ("{", "[]", "null", "\0", *(json.dumps(whole | damage) for damage in damages)):
        file.write_text(text)
        assert not run(exported_both, tmp_path / "cache").remembered
    (tmp_path / "a file").write_text("")
    assert run(exported_both, tmp_path / "a file").engine == "openvino"


def test_a_damaged_conversion_is_made_again(exported: Any, tmp_path: Path) -> None:
    cache = ChoiceCache(tmp_path)
    converted = tmp_path / "k.onnx"
    converted.write_bytes(b"network")
    cache.write("k", exported.folder, Choice("onnxruntime", "fp32", converted, {}, {}))
    assert cache.read("k", exported.folder).model == converted
    converted.write_bytes(b"netw")
    assert cache.read("k", exported.folder) is None
    assert not converted.exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"engines": [{"engine": "openvino"}]}', "nan"])
def test_a_price_that_cannot_be_read_leaves_int8_out(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text == "nan":
        text = '{"engines": [{"engine": "openvino", "top1_before": NaN, "top1_after": 1}]}'
    monkeypatch.setattr(auto, "read_metadata", lambda path: {auto.QUANTIZATION_KEY: text})
    with pytest.raises(UserError, match=r"cannot be read|loses nan points"):
        auto._require_small_loss(Path("int8.onnx"), "openvino")


def test_nothing_that_runs_it(
    exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "available_precisions", lambda name: dict.fromkeys(
        ("fp32", "bf16", "int8"), "is broken"
    ))  # fmt: skip
    with pytest.raises(UserError, match="nothing here can run it: paddle fp32: is broken"):
        run(exported_both, tmp_path)


def test_without_onnx_only_paddle_is_left(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "missing", lambda name: "onnx is not installed: pip install onnx")
    spec = InferenceSpec.read(exported.folder)
    cache = ChoiceCache(tmp_path)
    choice = choose(exported.folder, spec, SHAPE, 1, "fp32", budget_s=1, cache=cache)
    assert choice.engine == "paddle"
    if available_engines()["openvino"] is None:
        assert "no inference.onnx" in choice.left_out["openvino fp32"]


def test_a_folder_without_onnx_is_converted_once(exported: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx, which writes ONNX files, is not installed")
    if all(available_engines()[name] for name in ("openvino", "onnxruntime")):
        pytest.skip("neither openvino nor onnxruntime is installed")
    spec, cache = InferenceSpec.read(exported.folder), ChoiceCache(tmp_path / "cache")
    options = {"precision": "fp32", "budget_s": 3.0, "cache": cache}
    choice = choose(exported.folder, spec, SHAPE, 1, **options)
    assert len(choice.milliseconds) > 1 and len(list(cache.folder.glob("*.onnx"))) == 1
    again = choose(exported.folder, spec, SHAPE, 1, **options)
    assert again.remembered and again.model == choice.model
    if choice.engine != "paddle":
        assert choice.model.parent == cache.folder


def test_the_predictor_runs_what_was_chosen(
    exported_both: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PPCLS_LITE_HOME", str(tmp_path))
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    predictor = Predictor(exported_both.folder, threads=1, engine="auto", precision="fp32")
    assert predictor.engine.name == predictor.choice.engine
    by_hand = Predictor(exported_both.folder, threads=1).predict(picture)
    assert predictor.predict(picture)[0]["scores"] == pytest.approx(by_hand[0]["scores"], rel=1e-3)
    assert type(predictor.engine).__module__.startswith("ppcls_lite.inference.engines.")
    late = auto._LATE in predictor.choice.left_out.values()  # on a busy machine: not remembered
    assert late or list((tmp_path / "engines").glob("*.json"))


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_the_check_of_rounded_answers(output: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((40, 8)) * 3
    powers = np.exp(logits)
    reference = logits if output == "logits" else powers / powers.sum(axis=1, keepdims=True)
    near, far = reference * (1 + 1e-3), reference[:, ::-1]

    def refusal(found: np.ndarray, precision: str) -> str | None:
        outputs = {"logits": reference}, {"logits": found}
        return auto.refusal(Topk(), *outputs, precision, output)

    assert refusal(near, "bf16") is None
    assert "too far from fp32" in refusal(far, "int8")
    assert "not finite" in refusal(near * np.nan, "bf16")
    assert refusal(near[:, 1:], "fp32") == "gives the shape (40, 7) instead of (40, 8)"

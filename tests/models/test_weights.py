"""Strict loading: a matching file fills everything, any other is refused or announced."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_lite.engine import checkpoint
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import Taken, load_weights, read_state, write_state
from ppcls_lite.system import safe_pickle

NAME = "PPLCNet_x0_25"


@pytest.fixture
def official(tmp_path: Path, fill: Callable) -> tuple[Path, dict[str, np.ndarray]]:
    """A file as paddle.save writes it, for 4 classes, and its arrays."""
    model = create_model(NAME, class_num=4)
    state = fill({key: value.shape for key, value in model.state_dict().items()})
    model.set_state_dict(state)
    paddle.save(model.state_dict(), str(tmp_path / "official.pdparams"))
    return tmp_path / "official.pdparams", state


def values(model: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("suffix", ["", ".pdparams"])
def test_a_file_of_paddle_save_fills_everything(official: tuple, suffix: str) -> None:
    path, state = official
    model = create_model(NAME, class_num=4)
    report = load_weights(model, str(path.with_suffix(suffix)))
    assert report.matched == list(state)
    assert not (report.missing or report.unexpected or report.mismatched)
    for key, value in values(model).items():
        np.testing.assert_array_equal(value, state[key])


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_paddle_save_is_read(
    tmp_path: Path, official: tuple, protocol: int
) -> None:
    _, state = official
    tensors = {key: paddle.to_tensor(value) for key, value in state.items()}
    for name, content in (("a", tensors), ("b", state)):
        paddle.save(content, str(tmp_path / name), protocol=protocol)
        got = read_state(tmp_path / name)
        assert list(got) == list(state)
        assert all(np.array_equal(got[key], state[key]) for key in state)


def test_arrays_that_paddle_split_are_joined(tmp_path: Path) -> None:
    parts = {f"w@@.{i}": np.arange(3.0) + 3 * i for i in range(2)}
    info = {"w": {"OriginShape": (2, 3), "slices": list(parts)}}
    content = {"b": np.ones(2), **parts, "UnpackBigParamInfor@@": info}
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content, protocol=2))
    got = read_state(tmp_path / "x")
    assert sorted(got) == ["b", "w"]
    np.testing.assert_array_equal(got["w"], np.arange(6.0).reshape(2, 3))


def test_what_we_write_paddle_reads(tmp_path: Path, official: tuple) -> None:
    _, state = official
    model = create_model(NAME, class_num=4)
    model.set_state_dict(state)
    path = write_state(tmp_path / "sub" / "best_model", model.state_dict())
    assert path.name == "best_model.pdparams" and [path.name] == [
        p.name for p in path.parent.iterdir()
    ]
    loaded = paddle.load(str(path))
    assert set(loaded) == set(state)
    assert all(isinstance(value, paddle.Tensor) for value in loaded.values())
    other = create_model(NAME, class_num=4)
    missing, unexpected = other.set_state_dict(loaded)
    assert not missing and not unexpected
    assert all(np.array_equal(value, state[key]) for key, value in values(other).items())
    assert load_weights(other, path).matched == list(state)


def test_another_class_count_is_an_error_unless_asked(
    official: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = official
    model = create_model(NAME, class_num=7)
    before = values(model)
    with pytest.raises(UserError, match=r"another classifier.*fc\.weight: file \[1280, 4\]"):
        load_weights(model, path)
    assert all(np.array_equal(value, before[key]) for key, value in values(model).items())
    with caplog.at_level(logging.WARNING, logger="ppcls_lite"):
        report = load_weights(model, path, replace_head=True)
    assert report.mismatched == {
        "fc.weight": ([1280, 4], [1280, 7]),
        "fc.bias": ([4], [7]),
    }
    assert "starts random" in caplog.text and "fc.weight" in caplog.text
    after = values(model)
    assert np.array_equal(after["fc.weight"], before["fc.weight"])
    assert all(np.array_equal(after[key], state[key]) for key in report.matched)


def test_a_head_without_last_convolution_is_replaced_too(official: tuple) -> None:
    model = create_model(NAME, class_num=4, use_last_conv=False)
    with pytest.raises(UserError, match="another classifier"):
        load_weights(model, official[0])
    report = load_weights(model, official[0], replace_head=True)
    assert report.unexpected == ["last_conv.weight"] and list(report.mismatched) == ["fc.weight"]


def test_a_trunk_takes_its_part_of_a_whole_file(official: tuple) -> None:
    path, state = official
    trunk = create_model(NAME, class_num=0)
    report = load_weights(trunk, path)
    assert report.unexpected == ["last_conv.weight", "fc.weight", "fc.bias"]
    assert all(np.array_equal(value, state[key]) for key, value in values(trunk).items())
    # the other way round the classifier would stay random, so it has to be asked for
    write_state(path, trunk.state_dict())
    with pytest.raises(UserError, match=r"3 missing in the file \(last_conv\.weight, fc\.weight"):
        load_weights(create_model(NAME, class_num=4), path)


@pytest.mark.parametrize("replace_head", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.conv.weight"), r"1 missing in the file \(conv1\.conv\.weight\)"),
        (lambda s: s.update(extra=np.ones(1)), r"1 not in the network \(extra\)"),
        (
            lambda s: s.update({"conv1.bn.bias": np.ones(3)}),
            r"1 of another shape \(conv1\.bn\.bias: file \[3\], network \[8\]\)",
        ),
        (lambda s: s.update({"conv1.bn.bias": np.ones(8, int)}), "holds int64, not floating"),
        (lambda s: s.clear(), r"does not fit PPLCNet: 0 matched; 146 missing.*and 143 more"),
    ],
)
def test_any_other_difference_is_an_error(
    official: tuple, change: Callable, message: str, replace_head: bool
) -> None:
    path, state = official
    change(state)
    write_state(path, state)
    model = create_model(NAME, class_num=4)
    before = values(model)
    with pytest.raises(UserError, match=message):
        load_weights(model, path, replace_head=replace_head)
    assert all(np.array_equal(value, before[key]) for key, value in values(model).items())


def test_another_network_is_refused(official: tuple) -> None:
    with pytest.raises(UserError, match=r"does not fit PPLCNet: \d+ matched.* of another shape"):
        load_weights(create_model("PPLCNet_x0_5", class_num=4), official[0], replace_head=True)
    with pytest.raises(UserError, match="does not fit MobileNetV1"):
        load_weights(create_model("MobileNetV1_x0_25", class_num=4), official[0])


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_precisions_are_converted(tmp_path: Path, official: tuple, dtype: str) -> None:
    _, state = official
    tensors = {key: paddle.to_tensor(value).astype(dtype) for key, value in state.items()}
    paddle.save(tensors, str(tmp_path / "x.pdparams"))
    model = create_model(NAME, class_num=4)
    load_weights(model, tmp_path / "x")
    for key, value in values(model).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, state[key], rtol=1e-2, atol=1e-6)


def test_a_file_that_wants_to_call_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pdparams").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(
        safe_pickle.UnsafePickleError, match=r"x\.pdparams wants to call os\.system"
    ):
        create_model(NAME, pretrained=tmp_path / "x")


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no weights at .*best or best\.pdparams: that folder has no"
    ):
        read_state(tmp_path / "best")
    safe_pickle.dump_atomic({"model": {}, "step": 3}, tmp_path / "latest.pdparams")
    with pytest.raises(UserError, match=r"that folder has latest\.pdparams"):
        read_state(tmp_path / "best")
    with pytest.raises(UserError, match="there is no folder"):
        read_state(tmp_path / "nowhere" / "best")
    with pytest.raises(UserError, match=r"'model' is a dict, not an array.*Global\.checkpoints"):
        read_state(tmp_path / "latest")
    safe_pickle.dump_atomic([1], tmp_path / "list.pdparams")
    with pytest.raises(UserError, match="holds a list"):
        read_state(tmp_path / "list")


@pytest.mark.parametrize(
    "content",
    [
        {"UnpackBigParamInfor@@": 3},
        {"UnpackBigParamInfor@@": {"w": {}}},
        {"UnpackBigParamInfor@@": {"w": {"slices": ["gone"], "OriginShape": [1]}}},
        {
            "w.0": np.ones(3),
            "UnpackBigParamInfor@@": {"w": {"slices": ["w.0"], "OriginShape": [7]}},
        },
        {"w": np.array(["text"])},
        {3: np.ones(3)},
        {"w": ("name", 3)},
    ],
    ids=str,
)
def test_odd_weights_are_a_message(tmp_path: Path, content: dict) -> None:
    safe_pickle.dump_atomic(content, tmp_path / "odd.pdparams")
    with pytest.raises(UserError, match=r"odd\.pdparams is (damaged|no file of weights)"):
        read_state(tmp_path / "odd")


def test_weights_are_compared_with_the_manifest_beside_them(tmp_path: Path) -> None:
    model = {"w": np.ones(3, np.float32)}
    averaged = {"weights": {"w": np.zeros(3, np.float32)}, "updates": 1}
    checkpoint.save(tmp_path / "best", {"model": model, "ema": averaged})
    for name in ("best", "best_raw", "best.pdparams"):
        read_state(tmp_path / name)
    shutil.copy(tmp_path / "best.pdparams", tmp_path / "best_raw.pdparams")
    with pytest.raises(UserError, match=r"best_raw\.pdparams has .*its checksum"):
        read_state(tmp_path / "best_raw")
    (tmp_path / "best.manifest.json").write_text("[" * 99999)
    with pytest.raises(UserError, match=r"best\.manifest\.json is damaged"):
        read_state(tmp_path / "best")
    (tmp_path / "best.manifest.json").unlink()
    assert list(read_state(tmp_path / "best")) == ["w"]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = create_model("PPLCNet_x0_25", class_num=2)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    state["fc.bias"][1] = np.nan
    path = write_state(tmp_path / "diverged", state)
    with pytest.raises(UserError, match=r"fc\.bias holds NaN or infinite numbers"):
        load_weights(model, path)
    assert np.isfinite(model.fc.bias.numpy()).all()


@pytest.mark.parametrize("prefix", ["module.", "_layers.", "backbone.", "state_dict.model."])
def test_keys_behind_a_prefix_are_taken_on_request(official: tuple, prefix: str) -> None:
    path, state = official
    write_state(path, {f"{prefix}{k}": v for k, v in state.items()} | {"neck.bias": np.ones(2)})
    model = create_model(NAME, class_num=4)
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    assert f"fit without '{prefix}' in front" in str(caught.value)
    assert f"-o Global.weights_prefix={prefix}" in str(caught.value)
    report = load_weights(model, path, taken=Taken(prefix))
    assert len(report.matched) == len(state) and not report.unexpected
    assert all(np.array_equal(value, state[key]) for key, value in values(model).items())
    with pytest.raises(UserError, match=r"weights_prefix: no key of .* begins with 'net\.'"):
        load_weights(model, path, taken=Taken("net."))


def test_extra_keys_are_left_out_on_request(
    official: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = official
    write_state(path, state | {"ema.decay": np.ones(1)})
    model = create_model(NAME, class_num=4)
    with pytest.raises(UserError, match=r"own keys are all there.*ignore_extra_weights=true"):
        load_weights(model, path)
    report = load_weights(model, path, taken=Taken(ignore_extra=True))
    assert len(report.matched) == len(state)
    assert "1 keys are left out (ema.decay)" in caplog.text
    del state["conv1.conv.weight"]
    write_state(path, state | {"ema.decay": np.ones(1)})
    with pytest.raises(UserError, match="Give the weights of the same architecture"):
        load_weights(model, path, taken=Taken(ignore_extra=True))


@pytest.mark.parametrize("name", ["PPLCNetV3_det_x0_5", "PPLCNetV4_det_tiny"])
def test_the_trunk_of_an_ocr_file(name: str, tmp_path: Path) -> None:
    """Neck and head, merged convolutions and projections that the trunk lacks are left out."""
    source = create_model(name)
    state = {key: value.numpy() for key, value in source.state_dict().items()}
    merged = {key.replace(".conv_kxk.0.conv.", ".reparam_conv."): v for key, v in state.items()}
    file = {f"backbone.{key}": value for key, value in {**merged, **state}.items()}
    write_state(tmp_path / "ocr", {**file, "neck.in_conv.weight": np.ones(3, np.float32)})
    for trunk in (name, name.replace("det_", "")):
        model = create_model(trunk, class_num=0)
        load_weights(model, tmp_path / "ocr")
        for key, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[key])


def test_weights_for_other_channels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A grey image gives what it gives as three equal colours."""
    colour = create_model("PPLCNet_x0_25", class_num=3)
    write_state(tmp_path / "rgb", colour.state_dict())
    colour.eval()
    grey = paddle.rand([1, 1, 32, 32])
    for channels in (1, 4):
        model = create_model(
            "PPLCNet_x0_25", class_num=3, in_channels=channels, pretrained=tmp_path / "rgb"
        )
        model.eval()
        assert f"at {channels}: each gets the mean kernel" in caplog.text
        expected = colour(grey.expand([1, 3, 32, 32])).numpy()
        found = model(grey.expand([1, channels, 32, 32])).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="1 of another shape"):  # a continuation changes nothing
        load_weights(create_model("PPLCNet_x0_25", class_num=3, in_channels=1), tmp_path / "rgb")


@pytest.mark.parametrize("name", ["MobileNetV2_x0_25", "ShuffleNetV2_x0_25", "ResNet18_vd"])
def test_other_channels_in_other_families(name: str, tmp_path: Path) -> None:
    write_state(tmp_path / "rgb", create_model(name, class_num=2).state_dict())
    model = create_model(name, class_num=2, in_channels=6, pretrained=tmp_path / "rgb")
    assert model(paddle.zeros([2, 6, 32, 32])).shape == [2, 2]


def test_classes_are_added_behind_those_of_the_file(tmp_path: Path) -> None:
    before = create_model("PPLCNet_x0_25", class_num=3)
    write_state(tmp_path / "three", before.state_dict())
    after = create_model("PPLCNet_x0_25", class_num=5)
    drawn = after.fc.weight.numpy()
    load_weights(after, tmp_path / "three", replace_head=True, keep_classes=True)
    np.testing.assert_array_equal(after.fc.weight.numpy()[:, :3], before.fc.weight.numpy())
    np.testing.assert_array_equal(after.fc.bias.numpy()[:3], before.fc.bias.numpy())
    np.testing.assert_array_equal(after.fc.weight.numpy()[:, 3:], drawn[:, 3:])
    fewer = create_model("PPLCNet_x0_25", class_num=2)
    with pytest.raises(UserError, match="needs the same classifier with more classes"):
        load_weights(fewer, tmp_path / "three", replace_head=True, keep_classes=True)

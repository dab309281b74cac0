"""Weights in and out: safe reading, strict loading with a report, official files.

A `.pdparams` file is a pickle of `{state-dict key: array}`; it is read by safe_pickle.py, which
calls nothing that the file asks for. Loading is strict: every number of the network comes from
the file or the caller hears about it. Read next: convert.py (safetensors, ONNX).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.errors import UserError, cut, shown
from ppcls_lite.models.network import Network
from ppcls_lite.models.weights.safetensors_file import SUFFIX, read_safetensors
from ppcls_lite.system import manifest, safe_pickle

logger = logging.getLogger("ppcls_lite")

_NAMES = "StructuredToParameterName@@"  # paddle.save: key -> internal parameter name
_CHUNKS = "UnpackBigParamInfor@@"  # paddle.save, protocol 2 and 3: arrays too big for one pickle


@dataclass
class LoadReport:
    """What `load_weights` did. `mismatched`: key -> (shape in the file, shape in the network)."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        if self.missing:
            parts.append(f"{len(self.missing)} missing in the file ({_few(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} not in the network ({_few(self.unexpected)})")
        if self.mismatched:
            shapes = [f"{k}: file {f}, network {n}" for k, (f, n) in self.mismatched.items()]
            parts.append(f"{len(shapes)} of another shape ({_few(shapes)})")
        return "; ".join(parts)


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """State-dict key -> array of a file of weights, given with or without `.pdparams`.

    Understands what `paddle.save` writes for a state dict, split arrays included. Raises
    `UserError` when there is no such file, or it is no file of weights (see safe_pickle.py).
    """
    path = find_weights(path)
    if path.suffix == SUFFIX:
        return read_safetensors(path)
    _require_whole(path)
    state = safe_pickle.load(path)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dict of named arrays")
    state.pop(_NAMES, None)
    try:
        for key, info in state.pop(_CHUNKS, {}).items():
            parts = [state.pop(name) for name in info["slices"]]
            state[key] = np.concatenate(parts).reshape(info["OriginShape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: its list of split arrays does not fit ({type(error).__name__}: "
            f"{error}). Copy or download it again."
        ) from None
    for key, value in state.items():
        if isinstance(value, tuple) and len(value) == 2:  # a Tensor, saved as (name, array)
            state[key] = value = value[1]
        numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
        if not isinstance(key, str) or not numbers:
            raise UserError(
                f"{path} is no file of weights: {key!r:.60} is a {type(value).__name__}, not an "
                "array of numbers"
                + ". A .pdstate file is resumed with Global.checkpoints"
                * ("model" in state)
            )
    return state


def _require_whole(path: Path) -> None:
    """Raise `UserError` if the manifest of the checkpoint that `path` belongs to disagrees."""
    damage = manifest.problem_of_weights(path)
    if damage:
        raise UserError(
            f"{damage}. Copy it again, or use another checkpoint of its folder; if you have put "
            f"other weights in its place, remove the {manifest.SUFFIX[1:]} beside it"
        )
    prefix = path.with_name(path.name.removesuffix(".pdparams").removesuffix("_raw"))
    if prefix.with_name(f"{prefix.name}.pdstate").exists() and not manifest.is_there(prefix):
        logger.warning(f"{path} has lost its {prefix.name}{manifest.SUFFIX}: it is read unchecked")


def find_weights(path: str | Path) -> Path:
    """The file that `path` names, with or without `.pdparams`; `UserError` if there is none."""
    path = Path(path).expanduser()
    candidates = [path, Path(f"{path}.pdparams")]
    for candidate in candidates:
        if is_file(candidate):
            return candidate
    if is_folder(path.parent):
        others = sorted(p.name for p in path.parent.glob("*.pdparams"))
        detail = f"that folder has {_few(others)}" if others else "that folder has no .pdparams"
    else:
        detail = f"there is no folder {cut(str(path.parent), 500)}"
    raise UserError(
        f"no weights at {cut(str(path), 500)} or {cut(candidates[1].name, 200)}: {detail}"
    )


def write_state(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write a state dict (arrays or Tensors) so that Paddle and PaddleClas can load it.

    The suffix `.pdparams` is added when `path` has none. Returns the path written. Raises
    `UserError` when it cannot be written; the file appears whole or not at all.
    """
    path = Path(path)
    if path.suffix != ".pdparams":
        path = path.with_name(path.name + ".pdparams")
    arrays = {
        key: value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        for key, value in state.items()
    }
    safe_pickle.dump_atomic({**arrays, _NAMES: {key: key for key in arrays}}, path)
    return path


@dataclass(frozen=True)
class Taken:
    """What is taken of a file of weights whose keys are not the network's own.

    prefix: what stands before the network's keys (`module.`); keys without it are left out.
    ignore_extra: leave out what the network does not have.
    """

    prefix: str | None = None
    ignore_extra: bool = False

    def of(self, state: Mapping[str, Any], source: str) -> Mapping[str, Any]:
        """The entries with the prefix, without it. Raises UserError if there are none."""
        if not self.prefix:
            return state
        own = _below(state, self.prefix)
        if not own:
            raise UserError(
                f"Global.weights_prefix: no key of {source} begins with {shown(self.prefix)}; "
                f"found {_few(list(state))}"
            )
        return own


def load_weights(
    model: Network,
    path: str | Path,
    replace_head: bool = False,
    member: str = "Student",
    taken: Taken = Taken(),
    keep_classes: bool = False,
) -> LoadReport:
    """Fill `model` from a file of weights; every key has to fit.

    replace_head: keep the random classifier where that of the file differs, and log it. A trunk
    (`class_num=0`) never needs the classifier of the file. member: which network of a file with
    several (PaddleClas writes those of a distillation together, each under its name). taken: of
    files with other keys, which are never left out or renamed unasked. keep_classes: of a file with
    fewer classes, its rows of the classifier are those of the first ones.
    Raises `UserError` for any other difference; the network is then unchanged.
    """
    path = find_weights(path)
    state, source = taken.of(read_state(path), str(path)), str(path)
    own = _below(state, f"{member}.")
    if own and not any(key in state for key in model.state_dict()):
        state, source = own, f"{path} ({member})"
    return apply_state(model, state, source, replace_head, taken.ignore_extra, keep_classes)


def apply_state(
    model: Network,
    state: Mapping[str, np.ndarray],
    source: str,
    replace_head: bool = False,
    ignore_extra: bool = False,
    keep_classes: bool = False,
) -> LoadReport:
    """`load_weights` for arrays already read; `source` names them in messages."""
    state, own = model.own_state(state), model.state_dict()
    if replace_head or not model.class_num:  # a start, not a continuation
        state = _with_channels(state, own, source)
    layers = tuple(f"{layer}." for layer in model.head_layers)
    if ignore_extra and (extra := [k for k in state if k not in own and not k.startswith(layers)]):
        logger.warning(f"{source}: {len(extra)} keys are left out ({_few(extra)})")
        state = {key: value for key, value in state.items() if key not in extra}
    report = LoadReport(
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own],
    )
    for key, value in own.items():
        shapes = list(state[key].shape) if key in state else None, list(value.shape)
        if shapes[0] == shapes[1]:
            report.matched.append(key)
        elif key in state:
            report.mismatched[key] = shapes
    problems = [*report.missing, *report.unexpected, *report.mismatched]
    head = [key for key in problems if key.startswith(layers)]
    if len(head) < len(problems) or not report.matched:
        raise UserError(
            f"{source} does not fit {type(model).__name__}: {report}. "
            f"{_remedy(state, own, report, layers)}"
        )
    if head and model.class_num and not replace_head:
        raise UserError(
            f"{source} has another classifier than the network: {report}. Set class_num to the "
            "file's, or start a training from it with Arch.pretrained, which replaces the head."
        )
    values = {
        key: _numbers(state[key], own[key].is_floating_point(), key, source)
        for key in report.matched
    }
    for key, value in values.items():
        own[key].set_value(paddle.to_tensor(value, dtype=own[key].dtype))
    if keep_classes and model.class_num and report.mismatched:
        _keep_rows(state, own, report, source)
    elif head and model.class_num:
        logger.warning("%s: classifier not loaded, starts random: %s", source, report)
    else:
        logger.info("%s: %s", source, report)
    return report


def _with_channels(
    state: Mapping[str, np.ndarray], own: Mapping[str, Tensor], source: str
) -> Mapping[str, np.ndarray]:
    """With the first layer, which looks at three colours, made for images of other channels.

    Each gets the mean kernel times 3 / channels: a grey image gives what it gives as three equal
    colours, and others what their mean does.
    """

    def is_first(key: str) -> bool:
        here, there = own[key].shape, list(state[key].shape) if key in state else []
        alike = len(here) == len(there) == 4 and [here[0], *here[2:]] == [there[0], *there[2:]]
        return alike and there[1] == 3 != here[1]

    found = [key for key in own if is_first(key)]
    if len(found) != 1:
        return state
    (key,), kernel = found, np.asarray(state[found[0]])
    channels = own[key].shape[1]
    made = kernel.mean(axis=1, keepdims=True).repeat(channels, axis=1) * (3 / channels)
    logger.warning(
        "%s: the first layer %s looks at 3 channels, the network at %d: each gets the mean kernel "
        "times 3 / %d",
        *(source, key, channels, channels),
    )
    return {**state, key: made.astype(kernel.dtype)}


def _keep_rows(
    state: Mapping[str, np.ndarray], own: Mapping[str, Tensor], report: LoadReport, source: str
) -> None:
    """Put the rows of a smaller classifier at the beginning of the network's."""
    kept = 0
    for key, (there, here) in report.mismatched.items():
        if there[:-1] != here[:-1] or there[-1] > here[-1]:
            raise UserError(
                f"{source}: keep_classes: {key} is {there} there and {here} here; the network "
                "needs the same classifier with more classes"
            )
        kept = there[-1]
        whole = own[key].numpy()
        whole[..., :kept] = state[key]
        own[key].set_value(paddle.to_tensor(whole, dtype=own[key].dtype))
    logger.warning("%s: the first %d classes are its own, those behind start random", source, kept)


def _remedy(
    state: Mapping[str, np.ndarray],
    own: Mapping[str, Tensor],
    report: LoadReport,
    head: tuple[str, ...],
) -> str:
    """What may help against weights that do not fit."""
    trunk = [key for key in own if not key.startswith(head)]

    def fits(found: Mapping[str, np.ndarray]) -> bool:
        return all(k in found and list(found[k].shape) == list(own[k].shape) for k in trunk)

    if trunk and fits(state) and report.unexpected:
        return (
            "The network's own keys are all there: the others are left out with "
            "Global.pretrained_model and -o Global.ignore_extra_weights=true"
        )
    ends = [key for key in report.unexpected if trunk and key.endswith(f".{trunk[0]}")]
    for prefix in [key.removesuffix(trunk[0]) for key in ends]:
        if fits(_below(state, prefix)):
            return (
                f"The keys fit without {shown(prefix)} in front: give the file as "
                f"Global.pretrained_model and -o Global.weights_prefix={prefix}"
            )
    return "Give the weights of the same architecture, with the same arguments."


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose keys begin with `prefix`, without it."""
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _numbers(value: np.ndarray, floating: bool, key: str, source: str) -> np.ndarray:
    if not floating and np.issubdtype(value.dtype, np.integer):  # a table of places
        return value
    if value.dtype == np.uint16:  # how paddle.save writes bfloat16: the upper half of a float32
        value = (value.astype(np.uint32) << 16).view(np.float32)
    if not np.issubdtype(value.dtype, np.floating):
        raise UserError(f"{source}: {key} holds {value.dtype}, not floating-point numbers")
    if not np.isfinite(value).all():
        raise UserError(
            f"{source}: {key} holds NaN or infinite numbers: these weights are of a training that "
            "diverged, or damaged; use an earlier checkpoint"
        )
    return value


def _few(names: list[str], count: int = 3) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more

"""Checkpoints: `<prefix>.pdstate` resumes a run, `<prefix>.pdparams` is the network alone.

`.pdstate` is one file with the whole training state, weights included, and a resumed run reads
nothing else; `.pdparams` holds the weights under the official names and loads in PaddleClas too.
Each is written in one step: after a crash or on a full disk the previous file is still whole.
The prefixes in a run folder are `latest`, `best_model` and `epoch_N`. Optimizer state is stored
under the parameters' names in the state dict, because Paddle's own names (conv2d_0.w_0) count
the layers made in the process. Read next: trainer.py, which fills the state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_lite import safe_pickle
from ppcls_lite.errors import UserError

FORMAT = 1
Arrays = dict[str, np.ndarray]


def save(prefix: str | Path, state: Mapping[str, Any]) -> None:
    """Write `<prefix>.pdstate` and `<prefix>.pdparams` (its entry `model`), each atomically.

    `state` holds plain data and arrays. An `UserError` names the path that cannot be written.
    """
    prefix = Path(prefix)
    safe_pickle.dump_atomic({"format": FORMAT, **state}, _with(prefix, ".pdstate"))
    safe_pickle.dump_atomic(state["model"], _with(prefix, ".pdparams"))


def load(prefix: str | Path) -> dict[str, Any]:
    """Read the training state of `prefix` (with or without the suffix).

    Raises `UserError` naming the file when it is missing, damaged or something else.
    """
    prefix = Path(prefix)
    if prefix.suffix in (".pdstate", ".pdparams"):
        prefix = prefix.with_suffix("")
    path = _with(prefix, ".pdstate")
    if not path.exists():
        raise UserError(_not_there(prefix, path))
    state = safe_pickle.load(path)
    if not isinstance(state, dict) or "format" not in state or "model" not in state:
        raise UserError(
            f"{path} is not a training state of this toolkit. To start a new run from weights, "
            "use -o Global.pretrained_model=PREFIX instead of Global.checkpoints."
        )
    if state["format"] != FORMAT:
        raise UserError(
            f"{path} has format {state['format']!r}, this version reads format {FORMAT}. Resume "
            "with the version that wrote it, or start a new run from its weights with "
            f"-o Global.pretrained_model={prefix}"
        )
    return state


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)  # with_suffix would cut a name like v1.5


def _not_there(prefix: Path, path: Path) -> str:
    if _with(prefix, ".pdparams").exists():
        return (
            f"{path}: no such file. {prefix.name}.pdparams holds weights only and cannot resume a "
            f"run; to start a new one from them use -o Global.pretrained_model={prefix}"
        )
    others = sorted(found.stem for found in prefix.parent.glob("*.pdstate"))
    found = f"that folder has: {', '.join(others)}" if others else "that folder has no checkpoint"
    return f"{path}: no such file; {found}. Global.checkpoints is a prefix: RUN_FOLDER/latest"


def arrays(layer: nn.Layer) -> Arrays:
    """The parameters and buffers of `layer` as arrays, under their names in the state dict."""
    return {name: tensor.numpy() for name, tensor in layer.state_dict().items()}


def load_arrays(layer: nn.Layer, saved: Arrays, source: str) -> None:
    """Put `saved` into `layer`; every name and shape must agree, or nothing is changed.

    Raises `UserError` with the first differences: `source` is of another network.
    """
    wanted = layer.state_dict()
    shapes = [
        f"{name} is {list(saved[name].shape)} there and {list(tensor.shape)} here"
        for name, tensor in wanted.items()
        if name in saved and list(saved[name].shape) != list(tensor.shape)
    ]
    differences = [
        *_counted("lacks", [name for name in wanted if name not in saved]),
        *_counted("has unknown", [name for name in saved if name not in wanted]),
        *_counted("differs in shape:", shapes),
    ]
    if differences:
        raise UserError(
            f"{source} is a checkpoint of another network: it {'; it '.join(differences)}. "
            "Use the Arch section that it was trained with (config.yaml in its folder)."
        )
    for name, tensor in wanted.items():
        tensor.set_value(saved[name])


def _counted(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(names[:3])}{more}"] if names else []


def optimizer_arrays(optimizer: paddle.optimizer.Optimizer, model: nn.Layer) -> dict[str, Any]:
    """The optimizer's state: `kind` (its class) and `slots` {slot: {parameter: array}}.

    A slot is what the optimizer keeps per parameter, `velocity` or `moment1` for example.
    """
    slots: dict[str, Arrays] = {}
    for slot, parameter, tensor in _slots(optimizer, model):
        slots.setdefault(slot, {})[parameter] = tensor.numpy()
    return {"kind": type(optimizer).__name__, "slots": slots}


def load_optimizer_arrays(
    optimizer: paddle.optimizer.Optimizer, model: nn.Layer, saved: Mapping[str, Any], source: str
) -> None:
    """Put the state from `optimizer_arrays` into an optimizer of the same kind.

    The weights stay as they are. Raises `UserError` when the kinds or the trained parameters
    differ.
    """
    kind = type(optimizer).__name__
    if saved["kind"] != kind:
        raise UserError(
            f"{source} was written with the optimizer {saved['kind']}, this run has {kind}. Resume "
            "with the same Optimizer section, or start a new run from the weights."
        )
    slots: dict[str, Arrays] = saved["slots"]
    _make_slots(optimizer, model, {name for values in slots.values() for name in values})
    for slot, parameter, tensor in _slots(optimizer, model):
        value = slots.get(slot, {}).get(parameter)
        if value is None or list(value.shape) != list(tensor.shape):
            raise UserError(
                f"{source}: the optimizer state {slot} of {parameter} is missing or has another "
                "shape. Resume with the same Arch and Optimizer sections."
            )
        tensor.set_value(value)


def _slots(
    optimizer: paddle.optimizer.Optimizer, model: nn.Layer
) -> Iterator[tuple[str, str, paddle.Tensor]]:
    """(slot, parameter's name in the state dict, the optimizer's own tensor) of each entry.

    Paddle's key is `<parameter>_<slot>_<counter>`; the counter depends on what else the process
    has made, so it is not part of the slot's name.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    state = dict(optimizer.state_dict())
    for key, tensor in state.pop("master_weights", {}).items():
        yield "master_weights", names[key], tensor
    state.pop("LR_Scheduler", None)
    for key, tensor in state.items():
        parts = key.split("_")
        owner = next(
            (own for end in range(len(parts), 0, -1) if (own := "_".join(parts[:end])) in names),
            None,
        )
        if owner is None:
            raise TypeError(f"the optimizer trains {key}, which is no parameter of the network")
        yield key[len(owner) + 1 :].rpartition("_")[0], names[owner], tensor


def _make_slots(
    optimizer: paddle.optimizer.Optimizer, model: nn.Layer, parameters: set[str]
) -> None:
    """Let a fresh optimizer make its slots, by a step with zero gradients and zero rate.

    Paddle makes them in the first step, under names that cannot be known before; a state loaded
    earlier only fits by luck. With a rate of zero no optimizer moves a weight.
    """
    trained = [p for name, p in model.named_parameters() if name in parameters]
    trained = [p for p in trained if not p.stop_gradient]
    if not trained:
        return
    rate = optimizer.get_lr()
    optimizer.set_lr(0.0)
    optimizer.clear_grad()
    paddle.add_n([(parameter * 0.0).sum() for parameter in trained]).backward()
    optimizer.step()
    optimizer.clear_grad()
    optimizer.set_lr(rate)

"""Checkpoints: `<prefix>.pdstate` resumes a run, `<prefix>.pdparams` is the network alone.

`.pdstate` is one file with the whole training state, weights included, and a resumed run reads
nothing else; `.pdparams` holds the weights under the official names and loads in PaddleClas too.
In a run with an average (EMA), `.pdparams` holds the averaged weights, which are the ones to use,
and `<prefix>_raw.pdparams` those being trained. `<prefix>.manifest.json` has the checksums.
All files are complete on the disk before the first takes its place: after a crash or on a full
disk the previous ones are still whole. The prefixes in a run folder are `latest`, `previous` (what
`latest` was before), `best_model` and `epoch_N`. Optimizer state is stored
under the parameters' names in the state dict, because Paddle's own names (conv2d_0.w_0) count
the layers made in the process. Read next: training_state.py, which makes the state, and
checkpoint_manager.py, which decides when it is written.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ppcls_lite.errors import UserError
from ppcls_lite.system import files, manifest, safe_pickle

logger = logging.getLogger("ppcls_lite")

FORMAT = 1
AUTO = "auto"  # instead of a prefix: the newest whole checkpoint
SUFFIXES = (".pdstate", ".pdparams", "_raw.pdparams", manifest.SUFFIX)
Arrays = dict[str, np.ndarray]


def save(prefix: str | Path, state: Mapping[str, Any], previous: str | Path | None = None) -> None:
    """Write the files of `prefix`; with `previous`, what they were before is kept there.

    `state` holds plain data and arrays: its `model`, and `ema` or None, are the weights. A
    `UserError` names the path that cannot be written.
    """
    prefix = Path(prefix)
    contents = {".pdstate": {"format": FORMAT, **state}, ".pdparams": state["model"]}
    if ema := state.get("ema"):
        shipped = ema["weights"] if ema.get("ships", True) else state["model"]
        contents |= {".pdparams": shipped, "_raw.pdparams": state["model"]}
    sums = {}
    facts = {name: state[name] for name in ("epoch", "step_in_epoch") if name in state}
    with contextlib.ExitStack() as renamed_at_its_end:
        # the last takes its place first: the state and then what describes it, the weights after
        order = [*reversed(list(contents)[1:]), manifest.SUFFIX, ".pdstate"]
        opened = {
            suffix: renamed_at_its_end.enter_context(files.atomic_file(_with(prefix, suffix)))
            for suffix in order
        }
        for suffix, content in contents.items():
            safe_pickle.require_plain(content)
            hashing = manifest.HashingFile(opened[suffix])
            pickle.dump(content, hashing, protocol=4)
            sums[suffix] = hashing.entry()
        opened[manifest.SUFFIX].write(manifest.text(sums, facts))
        for file in opened.values():  # all of them, before the first takes its place
            files.sync(file)
        if previous is not None:
            keep(prefix, Path(previous))
    if "_raw.pdparams" not in contents:  # of a run with an average, before
        _with(prefix, "_raw.pdparams").unlink(missing_ok=True)


def load(prefix: str | Path) -> dict[str, Any]:
    """Read the training state of `prefix` (with or without the suffix).

    Raises `UserError` naming the file when it is missing, damaged or something else.
    """
    prefix = _without_suffix(prefix)
    path = _with(prefix, ".pdstate")
    if not path.exists():
        raise UserError(_not_there(prefix, path))
    if not manifest.is_there(prefix):
        logger.info(f"{path} has no {prefix.name}{manifest.SUFFIX}: it is read unchecked")
    damage = manifest.problem(prefix)
    if damage:
        raise UserError(
            f"{damage}. Copy it again, or resume from the newest whole checkpoint of the run "
            f"folder with -o Global.checkpoints={AUTO}"
        )
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


def load_newest(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run folder: prefix and state; None if there is none at all.

    Damaged ones are named in the log and passed over. If all are, that is a `UserError`: starting
    over would overwrite what may still be rescued.
    """
    damaged = []
    for prefix in _newest_first(run_dir):
        try:
            return prefix, load(prefix)
        except UserError as error:
            damaged.append(prefix.name)
            logger.warning(f"The checkpoint {prefix.name} is passed over: {error}")
    if damaged:
        raise UserError(
            f"no checkpoint in {run_dir} is whole ({', '.join(damaged)} are not, see above). To "
            "start over, choose another Global.output_dir or remove them."
        )
    return None


def _newest_first(run_dir: Path) -> list[Path]:
    """`latest` and `previous`, then by the time of writing, which a changed clock may confuse."""
    found = sorted(run_dir.glob("*.pdstate"), key=lambda p: p.lstat().st_mtime, reverse=True)
    order = {"latest": 0, "previous": 1}
    return [_without_suffix(path) for path in sorted(found, key=lambda p: order.get(p.stem, 2))]


def remove(prefix: Path) -> None:
    """Delete the files of a checkpoint, if they are there."""
    for suffix in reversed(SUFFIXES):  # the state last, by which it is found
        _with(prefix, suffix).unlink(missing_ok=True)


def remove_leftovers(run_dir: Path) -> None:
    """Delete the unfinished files that a killed process left."""
    for path in run_dir.glob(files.TEMPORARY):
        path.unlink(missing_ok=True)


def keep(prefix: Path, other: Path) -> None:
    """Let `other` be what `prefix` is now: second names for the same files, where possible."""
    for suffix in SUFFIXES:
        source, target = _with(prefix, suffix), _with(other, suffix)
        if not source.exists():
            target.unlink(missing_ok=True)
        else:
            files.link_or_copy(source, target)


def _without_suffix(prefix: str | Path) -> Path:
    prefix = Path(prefix)
    return prefix.with_suffix("") if prefix.suffix in (".pdstate", ".pdparams") else prefix


def _with(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)  # with_suffix would cut a name like v1.5


def _not_there(prefix: Path, path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which is not there"
    if _with(prefix, ".pdparams").exists():
        return (
            f"{path}: no such file. {prefix.name}.pdparams holds weights only and cannot resume a "
            f"run; to start a new one from them use -o Global.pretrained_model={prefix}"
        )
    others = sorted(found.stem for found in prefix.parent.glob("*.pdstate"))
    found = f"that folder has: {', '.join(others)}" if others else "that folder has no checkpoint"
    return f"{path}: no such file; {found}. Global.checkpoints is a prefix: RUN_FOLDER/latest"


def arrays(layer: nn.Layer) -> Arrays:
    """The parameters and buffers of `layer` as arrays, under their names in the state dict.

    Weights in float16 or bfloat16 (AMP level O2) come as float32, which holds them exactly.
    """
    return {name: _array(tensor) for name, tensor in layer.state_dict().items()}


def _array(tensor: paddle.Tensor) -> np.ndarray:
    short = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return (tensor.astype("float32") if short else tensor).numpy()


def load_arrays(layer: nn.Layer, saved: Arrays, source: str) -> None:
    """Put `saved` into `layer`; every name and shape must agree, or nothing is changed.

    Raises `UserError` with the first differences: `source` is of another network.
    """
    wanted = layer.state_dict()
    require_same(wanted, saved, source)
    for name, tensor in wanted.items():
        value = paddle.to_tensor(saved[name])
        tensor.set_value(value if value.dtype == tensor.dtype else value.astype(tensor.dtype))


def require_same(wanted: Mapping[str, paddle.Tensor], saved: Arrays, source: str) -> None:
    """Raise `UserError` unless `saved` has the names and shapes of `wanted`."""
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
    zeros = [(parameter.astype("float32") * 0.0).sum() for parameter in trained]
    paddle.add_n(zeros).backward()
    optimizer.step()
    optimizer.clear_grad()
    optimizer.set_lr(rate)

"""The choice of the device that a run computes on. Read next: trainer.py."""

from __future__ import annotations

import paddle

from ppcls_lite.errors import UserError


def select(device: str) -> str:
    """Make `device` (`auto`, `cpu`, `gpu` or `gpu:N`) Paddle's current one; returns its full name.

    `auto` takes a GPU if this Paddle sees one. A GPU that is asked for and not there is a
    `UserError`: a run that silently falls back to the CPU would take weeks.
    """
    usable = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    kind, _, number = device.partition(":")
    if kind == "auto":
        device = kind = "gpu" if usable else "cpu"
    if kind == "gpu" and not usable:
        reason = (
            "no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)"
            if paddle.is_compiled_with_cuda()
            else "the installed PaddlePaddle is built for CPUs only; install paddlepaddle-gpu"
        )
        raise UserError(f"Global.device is 'gpu', but {reason}, or pass -o Global.device=cpu")
    if kind not in ("cpu", "gpu") or (number and not number.isdigit()):
        raise UserError(f"Global.device is {device!r}; expected auto, cpu or gpu")
    if number and int(number) >= max(usable, 1):
        raise UserError(f"Global.device is {device!r}, but there are {usable} GPUs, from gpu:0 on")
    paddle.set_device(device)
    return paddle.get_device()

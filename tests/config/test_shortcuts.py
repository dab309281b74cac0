"""The short options of `train` and `fit`."""

from __future__ import annotations

import argparse

from ppcls_lite.config.check import check
from ppcls_lite.config.file import load_config
from ppcls_lite.config.shortcuts import SHORTCUTS, add_shortcuts, overrides


def test_options_become_overrides_of_keys_that_exist() -> None:
    parser = argparse.ArgumentParser()
    add_shortcuts(parser)
    assert overrides(parser.parse_args([])) == ()
    argv = ["--epochs", "3", "--lr", "0.1", "--size", "96", "--batch", "8", "--minutes", "2.5"]
    changes = overrides(parser.parse_args([*argv, "--model", "PPLCNet_x0_5"]))
    assert len(changes) == len(SHORTCUTS)
    settings = check(load_config("configs/quickstart/photos.yaml", changes))
    run = settings.Global
    assert (run.epochs, run.image_size, run.max_minutes) == (3, 96, 2.5)
    assert settings.Arch.entry.name == "PPLCNet_x0_5"
    assert settings.DataLoader.Train.sampler.get("batch_size") == 8
    assert settings.Optimizer.arguments["lr"].get("learning_rate") == 0.1

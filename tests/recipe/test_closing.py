"""The last words of a training: the commands in them work as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import ppcls_lite
from ppcls_lite.cli import main
from ppcls_lite.engine.run_list import find_runs


def commands(text: str) -> list[list[str]]:
    """What stands below the last `Next:`, without the program's name."""
    lines = text[text.rindex("Next:\n") :].splitlines()[1:]
    words = [shlex.split(line) for line in lines if line.startswith("  ")]
    return [w[w.index("ppcls_lite") + 1 :] if "ppcls_lite" in w else w[1:] for w in words]


class StopAtOnce(ppcls_lite.Callback):
    def on_epoch(self, run, done):
        if done["epoch"] == 1:
            run.stop("a test")


def test_every_command_of_the_last_words_runs(shades_recipe, shades: Path, tmp_path: Path, capsys):
    transforms = shades_recipe["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    answer = {"name": "Topk", "topk": 1}
    shades_recipe["Infer"] = {"transforms": transforms, "PostProcess": answer}
    shades_recipe["Global"]["save_inference_dir"] = str(tmp_path / "in ference")
    ppcls_lite.train(shades_recipe, callbacks=[StopAtOnce()])
    out = capsys.readouterr().out
    assert "Best epoch so far 1: top1 " in out
    (resume,) = commands(out)
    assert [run.status for run in find_runs(tmp_path)] == ["stopped"]
    assert main(resume) == 0
    out = capsys.readouterr().out
    best = next(line for line in out.splitlines() if "Best epoch" in line)
    (run,) = find_runs(tmp_path)
    assert run.status == "done" and f"Best epoch {run.best_epoch}: top1 {run.score:.5g}" in best
    evaluate, export, predict = commands(out)
    folder = tmp_path / "output" / "PPLCNet_x0_25"  # it stands for its best weights
    assert evaluate == ["eval", "-c", str(folder)]
    assert main(evaluate) == 0 and f"top1: {run.score:.5f}" in capsys.readouterr().out
    assert main(export) == 0
    predict[predict.index("IMAGE")] = str(shades / "1.png")
    assert main(predict) == 0
    assert main(["runs", str(tmp_path)]) == 0
    assert "done    2/2" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_an_empty_folder_and_the_forms(form: str, tmp_path: Path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert main(["runs", str(tmp_path), form]) == 0
    assert capsys.readouterr().out.strip() in (
        "[]",
        "folder,status,why,epoch,epochs,main,score,best_epoch,higher_is_better,seconds,began",
    )

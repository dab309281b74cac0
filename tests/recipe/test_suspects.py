"""`ppcls-lite suspects`: doubtful labels named, and new lists by what is decided about them."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ppcls_lite.cli import main
from ppcls_lite.models.create import create_model
from ppcls_lite.models.weights.load import write_state
from ppcls_lite.recipe import suspects as command


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """30 circles and 30 lines, of which one each is in the other's folder; one broken file."""
    rng = np.random.default_rng(0)
    for i in range(60):
        image = rng.integers(0, 60, (40, 40, 3), np.uint8)
        x, y = rng.integers(12, 28, 2).tolist()
        colour = rng.integers(120, 256, 3).tolist()
        kind = i % 2
        if kind:
            cv2.circle(image, (x, y), 9, colour, 2)
        else:
            cv2.line(image, (x - 9, y - 9), (x + 9, y + 9), colour, 2)
        shown = 1 - kind if i < 2 else kind
        path = tmp_path / "shapes" / ("line", "circle")[shown] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "shapes" / "line" / "broken.png").write_bytes(b"")
    return tmp_path / "shapes"


def test_wrong_labels_are_named_and_corrected(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shapes.parent / "out"
    assert main(["suspects", str(shapes), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{shapes}/circle/00.png: labelled circle, looks like line " in said
    with (out / "suspects.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    first = {Path(row["file"]).name for row in rows[:2]}
    assert first == {"00.png", "01.png"} and "broken.png" not in {row["file"] for row in rows}
    assert Image.open(out / "suspects.png").size[0] > 100
    rows[0]["decision"], rows[1]["decision"] = "yes", "drop"
    rows.append(
        {"file": f"{shapes}/line/02.png", "decision": "circle"}
        | dict.fromkeys(("labelled", "looks_like", "certainty"), "")
    )
    with (out / "decided.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, command.COLUMNS)
        table.writeheader()
        table.writerows(rows)
    assert main(["suspects", str(shapes), "--apply", str(out / "decided.csv")]) == 0
    assert "2 labels changed, 1 images dropped" in capsys.readouterr().out
    texts = [(shapes / f"{split}_list.txt").read_text() for split in ("train", "val")]
    listed = dict(line.rsplit(" ", 1) for line in "".join(texts).splitlines())
    names = (shapes / "labels.txt").read_text().splitlines()
    assert names == ["0 circle", "1 line"] and len(listed) == 60
    yes = Path(rows[0]["file"])
    assert listed[f"{yes.parent.name}/{yes.name}"] == ("1" if yes.parent.name == "circle" else "0")
    assert listed["line/02.png"] == "0"
    assert main(["suspects", str(shapes), "--apply", str(out / "decided.csv")]) == 0
    assert (shapes / "train_list_2.txt").is_file()  # of the lists that are there now


def test_the_trunk_of_a_network(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = create_model("PPLCNet_x0_25")
    write_state(shapes.parent / "w.pdparams", network.state_dict())
    for file in list(shapes.rglob("[2-5]*.png")):
        file.unlink()
    data = command.labelled(str(shapes), None)
    found = command.find(data, "PPLCNet_x0_25", str(shapes.parent / "w"))
    assert len(found.places) < 21 and found.right > 0
    features, readable = command._features(data.paths, "PPLCNet_x0_25", str(shapes.parent / "w"))
    assert features.shape == (21, 128) and readable.sum() == 20


def test_mistakes(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*argv: str) -> str:
        assert main(["suspects", *argv]) == 1
        return capsys.readouterr().err

    assert "not both" in told()
    assert "say of which network" in told(str(shapes), "--weights", "w.pdparams")
    bad = shapes.parent / "bad.csv"
    assert "cannot be read" in told(str(shapes), "--apply", str(bad))
    bad.write_text("file,decision\na.png,yes\n")
    assert "expected the columns" in told(str(shapes), "--apply", str(bad))
    head = ",".join(command.COLUMNS)
    known = f"{shapes}/line/02.png,line,circle,0.9"
    bad.write_text(f"{head}\nno.png,line,circle,0.9,yes\n{known},perhaps\n")
    text = told(str(shapes), "--apply", str(bad))
    assert f"{bad}:2: no.png is none of the images" in text and "found 'perhaps'" in text
    assert not (shapes / "train_list.txt").exists()
    for file in (shapes / "circle").glob("[0-4]*.png"):
        file.unlink()
    for file in (shapes / "circle").glob("5[2-9].png"):
        file.unlink()
    assert "two classes of 5 images or more" in told(str(shapes))

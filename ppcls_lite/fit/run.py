"""The way of `fit`, step by step, each of which is a command of its own.

check -> lists -> recipe.yaml -> lr -> train -> eval -> export -> engine. The folder that comes out
holds all of it; `train -c recipe.yaml` repeats the training bit by bit.
Read before: ../recipe/check.py, ../recipe/lr.py, ../recipe/train.py. Read next: network.py, cli.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import BASE, RecipeLoader, base_name, difference, dump, load_config
from ppcls_lite.config.image_size import nodes_of
from ppcls_lite.config.yaml_reader import read_yaml
from ppcls_lite.data.prepare.next_step import PHOTOS, NextStep
from ppcls_lite.data.prepare.recognise import recognise
from ppcls_lite.engine import log, ranks
from ppcls_lite.errors import UserError
from ppcls_lite.fit.network import by_latency
from ppcls_lite.inference.predictor import Predictor
from ppcls_lite.models.weights.pretrained import weights_file
from ppcls_lite.recipe import check, evaluate, export, lr, new_lists, report, train
from ppcls_lite.recipe.certainty import EVALUATIONS
from ppcls_lite.recipe.explain import explain_mistakes
from ppcls_lite.recipe.names import class_num_of
from ppcls_lite.recipe.parts import build_datasets, image_shape_of, run_dir_of
from ppcls_lite.recipe.start import BEST
from ppcls_lite.system.files import write_text
from ppcls_lite.system.installed import missing
from ppcls_lite.system.outputs import fresh_folder

logger = logging.getLogger("ppcls_lite")
RECIPE = "recipe.yaml"
IMAGES = 20_000  # of each split that are looked at
FROM_SCRATCH = 60  # epochs, where a network learns all it knows from the photographs
FROM_SCRATCH_PHOTOS = (  # the recipe's own are for fine-tuning
    "Optimizer.lr.learning_rate=0.05",
    "DataLoader.Train.sampler.batch_size=16",
    "Global.total_batch_size=16",
)
SWEEP = 0.15, 40, 240  # updates for the rate: their share of the training's, least and most
AFTER = 30  # seconds for evaluation, export and the choice of the engine
RESERVE = 0.85  # share of --minutes that the epochs are planned for
EVALUATED = 3  # images are evaluated about so many times as fast as they are trained on


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    changes: `path.to.key=value` of the shortcuts and of -o. latency: milliseconds an image.
    """

    photos: str
    output: Path | None = None
    changes: tuple[str, ...] = ()
    latency: float | None = None
    from_scratch: bool = False
    val: float = 0.2
    seed: int = 0

    def states(self, key: str) -> bool:
        """Whether a key of the recipe is among the changes."""
        return any(change.partition("=")[0].strip() == key for change in self.changes)


def fit(wanted: Wanted) -> int:
    """All steps; returns the exit status. Everything is written into one new folder.

    Raises UserError for what cannot be done, with what to do.
    """
    start = time.monotonic()
    log.setup()
    with _new_folder(wanted) as place:
        return _fit(wanted, place, start)


def _fit(wanted: Wanted, place: Path, start: float) -> int:
    step = _lists(wanted, place)
    recipe = _network(wanted, place, step)
    _require_weights(recipe)
    recipe = _rate(wanted, place, recipe, start)
    result = train.train(recipe, closing=False)  # what comes next is done here
    if result.exit_code not in (0, 75):  # 75: --minutes are over; the best network is there
        _say(f"stopped; to go on: ppcls-lite train -c {place / RECIPE} -o Global.checkpoints=auto")
        return result.exit_code
    best = run_dir_of(recipe.settings) / "best_model"
    scored = Recipe.of(load_config(place / RECIPE, [f"Global.pretrained_model={best}"]))
    scores = evaluate.evaluate(scored)
    explain_mistakes(scored, result.run_dir / EVALUATIONS / BEST)
    export.export(scored, "paddle" if missing("onnx") else "both")
    choice = Predictor(place / "export", engine="auto").choice
    report.with_export(result.run_dir, place / "export", choice.milliseconds)
    times = ", ".join(f"{label} {ms:.2f}" for label, ms in choice.milliseconds.items())
    name, score = next(iter(scores.items()))
    _say(
        f"done in {in_words(time.monotonic() - start)}: {name} {score:.4f} on images that were not "
        f"trained on\n"
        f"  network    {place / 'export'}, fastest with {choice.engine} {choice.precision} "
        f"(ms an image: {times})\n"
        f"  run        {result.run_dir}: {_files(result.run_dir)}\n"
        f"  data       {place / 'check' / 'check.json'}, samples.png\n"
        f"predict:     ppcls-lite predict --model {place / 'export'} --engine auto --input IMAGE\n"
        f"serve:       ppcls-lite serve --model {place / 'export'} --engine auto\n"
        f"repeat:      ppcls-lite train -c {place / RECIPE}"
    )
    return 0


def _files(run_dir: Path) -> str:
    """What a person looks at in a run folder."""
    return ", ".join(sorted(f.name for f in run_dir.iterdir() if f.suffix in (".html", ".png")))


def _say(text: str) -> None:
    logger.info(text)


def _new_folder(wanted: Wanted) -> contextlib.AbstractContextManager[Path]:
    """The folder that is asked for, which has to be new or empty, or a new one."""
    name = Path(wanted.photos).resolve().name or "photos"
    numbered = (Path("fit", f"{name}-{number}") for number in range(2, 100_000))
    return fresh_folder(wanted.output, itertools.chain([Path("fit", name)], numbered))


def _lists(wanted: Wanted, place: Path) -> NextStep:
    """Look at the data, and write the lists that the training reads.

    Raises UserError for mistakes in the data.
    """
    kind = recognise(wanted.photos)
    _say(f"data: looking at all images of {wanted.photos}; `ppcls-lite check` alone does the same")
    checked = check.check_data(wanted.photos, IMAGES)
    check.show(checked)
    if checked.mistakes:
        raise UserError(f"{wanted.photos}: correct the mistakes above first")
    check.write(checked, place / "check")
    found = checked.examined
    if found is None or len(found.splits) < _images(checked):
        return kind.prepare(wanted.photos, str(place), wanted.val, wanted.seed)
    if checked.has_classes and len({int(label) for label in found.labels}) < 2:
        raise UserError(
            f"{wanted.photos}: all images are of one class; expected two or more, one sub-folder "
            "each, as in cat/1.jpg and dog/2.jpg"
        )
    step, text = new_lists.write_lists(checked, place, wanted.val, wanted.seed)
    _say(text)
    return step


def _images(checked: check.Checked) -> int:
    return sum(min(len(data), IMAGES) for data in checked.datasets.values())


def _network(wanted: Wanted, place: Path, step: NextStep) -> Recipe:
    """recipe.yaml, with the network that is asked for."""
    changes = [
        *step.overrides,
        f"Global.output_dir={place / 'run'}",
        f"Global.save_inference_dir={place / 'export'}",
    ]
    base = Recipe.of(load_config(step.recipe, step.overrides)).settings
    if wanted.from_scratch:
        given = [n for n in nodes_of(base.Arch) if getattr(n.extras, "pretrained", None)]
        changes += [f"{node.path}.pretrained=false" for node in given]
        if given and base.Global.epochs:
            changes.append(f"Global.epochs={max(FROM_SCRATCH, base.Global.epochs)}")
        changes += FROM_SCRATCH_PHOTOS if step.recipe == PHOTOS else ()
    if wanted.states("Global.epochs") and base.Global.iters:  # the recipe counts updates
        changes += ["Global.iters=null", "Global.eval_steps=null"]
    recipe = _written(place, step.recipe, [*changes, *wanted.changes])
    if wanted.latency is None:
        return recipe
    if step.recipe != PHOTOS:
        raise UserError("--latency: chooses among classifiers; for boxes and masks give --model")
    size = image_shape_of(recipe.settings)[-1]
    _say(f"network: looking for the largest that takes {wanted.latency:g} ms an image here")
    name = by_latency(wanted.latency, size, class_num_of(recipe.settings))
    _say(f"network: {name}")
    return _written(place, step.recipe, [*changes, *wanted.changes, f"Arch.name={name}"])


def _require_weights(recipe: Recipe) -> None:
    """Fetch the weights that the network starts from.

    Raises UserError where there are none, with what a training without them costs.
    """
    for node in nodes_of(recipe.settings.Arch):
        given = getattr(node.extras, "pretrained", None)
        if not given:
            continue
        try:
            file = weights_file(node.entry.name, given, getattr(node.extras, "use_ssld", False))
        except UserError as error:
            raise UserError(
                f"{error}. Without them the network learns all it knows from your photographs, "
                f"which takes {FROM_SCRATCH} epochs instead of 20 and, of a few hundred "
                "photographs, gives a much lower score: --from-scratch does that"
            ) from None
        _say(f"weights: {file}")


def _rate(wanted: Wanted, place: Path, recipe: Recipe, start: float) -> Recipe:
    """With the learning rate that a trial suggests and as many epochs as there are minutes for.

    Says how long the whole takes.
    """
    stated = wanted.states("Optimizer.lr.learning_rate")
    run, sampler = recipe.settings.Global, recipe.settings.DataLoader.Train.sampler
    batch = sampler.get(ranks.size_key(sampler.entry.arguments))
    datasets = build_datasets(recipe.settings, ("Train", "Eval"))
    images = {split: len(data) for split, data in datasets.items()}
    share, least, most = SWEEP
    updates = (run.epochs or 1) * max(1, images["Train"] // batch)
    _say("rate: trying some updates")
    steps = 10 if stated else int(min(max(least, share * updates), most))
    found = lr.find_rate(recipe, steps=steps)
    # what an export is compared on; in the folder of all there may be files that cannot be read
    changes: dict[str, Any] = {"Infer.infer_imgs": datasets["Eval"].paths[0]}
    if found.suggestion is not None and found.stated is not None and not stated:
        changes["Optimizer.lr.learning_rate"] = found.suggestion
    epoch = found.seconds * (found.updates + images["Eval"] / batch / EVALUATED)
    epochs = run.epochs
    if epochs and not wanted.states("Global.epochs"):
        epochs = epochs_within(run.max_minutes, epoch, epochs)
    if epochs != run.epochs:
        changes["Global.epochs"] = epochs
    length = f"{epochs} epochs of {found.updates} updates and {in_words(epoch)} each"
    left = (epochs or 0) * epoch
    if run.iters:
        length, left = f"{run.iters:,} updates", run.iters * epoch / max(found.updates, 1)
    whole = in_words(time.monotonic() - start + left + AFTER)
    _say(f"training: {length}, about {in_words(left)}; the whole about {whole}")
    return _kept(place, changes)


def epochs_within(minutes: float | None, epoch: float, most: int) -> int:
    """How many epochs of `epoch` seconds there is time for: 1 to `most`."""
    if minutes is None or epoch <= 0:
        return most
    return max(1, min(most, int(60 * minutes * RESERVE / epoch)))


def in_words(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _written(place: Path, base: str, changes: Sequence[str], since: Path | None = None) -> Recipe:
    """recipe.yaml: the base and what is changed about it, as a person would write it.

    since: the recipe that is changed; None: the base. The changes are those of `train -o`.
    """
    whole = load_config(since or base, changes)
    place.mkdir(parents=True, exist_ok=True)
    write_text(
        place / RECIPE, dump({BASE: base_name(base), **difference(load_config(base), whole)})
    )
    return Recipe.of(load_config(place / RECIPE))


def _kept(place: Path, changes: Mapping[str, Any]) -> Recipe:
    """recipe.yaml, which keeps the changes."""
    file = place / RECIPE
    base = read_yaml(file.read_text(encoding="utf-8"), RecipeLoader)[BASE]
    said = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]
    return _written(place, base, said, file)

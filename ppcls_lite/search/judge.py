"""What a candidate is worth, by two prices: its part of the supernet, and a short training alone.

Read before: supernet.py, held_out.py. Read next: run.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pickle
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppcls_lite.config.complete import Recipe, Tree, plain_copy
from ppcls_lite.config.file import dump
from ppcls_lite.distill.teachers import prepare_teachers
from ppcls_lite.engine import checkpoint, log, rng
from ppcls_lite.engine.distributed import World
from ppcls_lite.engine.evaluate import Evaluator
from ppcls_lite.errors import UserError
from ppcls_lite.recipe import parts
from ppcls_lite.recipe.networks import coupled
from ppcls_lite.search.networks import Networks
from ppcls_lite.search.space import SIZE, Candidate, digest, size_of
from ppcls_lite.search.supernet import Supernet, retake_statistics
from ppcls_lite.system.files import write_bytes, write_text
from ppcls_lite.system.launchers import PADDLE, SRUN, TORCHRUN
from ppcls_lite.system.processes import environment, tied, toolkit_command

logger = logging.getLogger("ppcls_lite")
_BATCHES = 8  # that running statistics are taken from
_TRIED = 4  # updates that are timed
_LOOKED_AT = 32  # images that untrained networks see
_SUPERNET = "supernet"


class SupernetJudge:
    """Trains one supernet on the recipe's data and scores candidates by their part of it.

    recipe: whose `DataLoader.Eval` judges.
    folder: where the supernet is kept after each epoch, and found again.
    """

    def __init__(self, recipe: Recipe, networks: Networks, world: World, folder: Path) -> None:
        settings = recipe.settings
        self.networks, self.world, self.folder = networks, world, folder
        datasets = parts.build_datasets(settings, ("Train", "Eval"))
        self.loader = parts.build_loader(settings, "Train", datasets["Train"], world)
        self.loss = parts.build_loss(settings.Loss.Train, datasets["Train"])
        alone = World()  # each rank scores candidates of its own, on all images
        evaluation = parts.build_loader(settings, "Eval", datasets["Eval"], alone)
        metrics = parts.build_metrics(settings, "Eval")
        self.higher_is_better = metrics[0].higher_is_better if metrics else False
        self.seed = parts.seed_of(settings)
        build = networks.build_to_train
        self.supernet = Supernet(networks.space, build, self._loss_of)
        self.task = coupled(settings, self.supernet.whole, self.loss, world)
        run = dataclasses.replace(settings.Global, teacher_cache=None)  # one training's
        uncached = dataclasses.replace(settings, Global=run)
        prepare_teachers(uncached, self.task, datasets["Train"], world)
        self._evaluator = Evaluator(self.task.scoring(nn.Identity()), evaluation, metrics)
        self.world.share(self.supernet.whole)
        self._recipe = recipe
        iters = settings.Global.iters
        self.whole_epochs = settings.Global.epochs if iters is None else iters / len(self.loader)
        self._first: list[Tensor] = []

    def _loss_of(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return self.loss(self.task.beside(outputs, batch), batch)["loss"]

    def require_supernet(self) -> None:
        """Raise UserError for a recipe whose networks learn from each other."""
        if self.task.partners:
            raise UserError(
                f"Arch: {', '.join(self.task.partners)} learns together with the network that is "
                "searched, which a supernet cannot: set Search.supernet_epochs=0, so that short "
                "trainings score, or freeze it (Arch.freeze_params_list)"
            )

    def seconds_per_epoch(self) -> float:
        """About how long an epoch of the supernet takes; nothing changes by it."""
        if self.task.partners:
            return math.inf
        drawn = np.random.default_rng(self.seed)
        seconds = self._timed(
            lambda batch: self.supernet.backward(self._sized(batch, drawn), drawn)
        )
        self.supernet.whole.clear_gradients()
        return seconds

    def seconds_alone(self, candidate: Candidate) -> float:
        """About how long an epoch of a candidate's own training takes."""
        model, size = self.networks.build_to_train(candidate), candidate.get(SIZE)
        model.train()

        def update(batch: Mapping[str, Tensor]) -> None:
            self._loss_of(model(resized(batch["image"], size)), batch).backward()

        return self._timed(update)

    def _timed(self, update: Callable[[Mapping[str, Tensor]], Any]) -> float:
        """Seconds of an epoch of such updates."""
        times = []
        for number, batch in enumerate(self.loader.epoch(1)):
            start = time.perf_counter()
            update(batch)
            times.append(time.perf_counter() - start)
            if number == _TRIED:
                break
        return statistics.median(times) * len(self.loader)

    def seconds_per_score(self) -> float:
        """About how long the score of a candidate takes."""
        middle = self.networks.space.draw(np.random.default_rng(self.seed))
        self._score(middle)  # reads the images that statistics are taken from
        start = time.perf_counter()
        self._score(middle)
        return time.perf_counter() - start

    def train(self, epochs: int) -> None:
        """All epochs, or those that are left."""
        steps, rank = len(self.loader), self.world.rank
        tree = with_length(self._recipe.tree, epochs, self.whole_epochs)
        optimizer = Recipe.of(tree).settings.Optimizer
        description = optimizer.build(epochs=epochs, step_each_epoch=steps)
        self.schedule = description.lr
        batch_size = self.loader.batch_sampler.batch_size
        parts.scale_rate(self._recipe.settings, self.schedule, batch_size, self.world)
        self.optimizer = description.build(self.supernet.whole)
        done = self._restore()
        for epoch in range(done + 1, epochs + 1):
            self.loss.begin_epoch(epoch)
            rng.seed(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]), rank)
            total = 0.0
            with log.bar(f"[Supernet][{epoch}/{epochs}]", steps) as bar:
                for step, batch in enumerate(self.loader.epoch(epoch)):
                    number = (epoch - 1) * steps + step
                    self.optimizer.set_lr(self.schedule(number))
                    drawn = np.random.default_rng((self.seed, number))  # alike on all ranks
                    total += self.supernet.backward(self._sized(batch, drawn), drawn)
                    self.world.average(self.supernet.whole)
                    self.optimizer.step()
                    self.optimizer.clear_grad()
                    bar.update()
            if not np.isfinite(total):
                raise UserError(
                    "search: the supernet's loss is not finite; lower Optimizer.lr.learning_rate"
                )
            logger.info(f"[Supernet][{epoch}/{epochs}] loss of the largest: {total / steps:.4f}")
            self._keep(epoch)

    def _sized(self, batch: Mapping[str, Tensor], drawn: np.random.Generator) -> dict[str, Any]:
        """The batch at one of the space's sizes, where it has some."""
        sizes = self.networks.space.slots.get(SIZE)
        if not sizes:
            return dict(batch)
        size = sizes[drawn.integers(len(sizes))]
        return {**batch, "image": resized(batch["image"], size)}

    def _restore(self) -> int:
        """The number of epochs that are done, with their weights."""
        prefix = self.folder / _SUPERNET
        if not self.world.from_main(lambda: prefix.with_suffix(".pdstate").exists()):
            return 0
        saved = checkpoint.load(prefix)
        checkpoint.load_arrays(self.supernet.whole, saved["model"], str(prefix))
        slots = saved["optimizer"]
        checkpoint.load_optimizer_arrays(self.optimizer, self.supernet.whole, slots, str(prefix))
        return int(saved["epoch"])

    def _keep(self, epoch: int) -> None:
        if self.world.is_main:
            state = {
                "model": checkpoint.arrays(self.supernet.whole),
                "optimizer": checkpoint.optimizer_arrays(self.optimizer, self.supernet.whole),
                "epoch": epoch,
            }
            checkpoint.save(self.folder / _SUPERNET, state)
        self.world.barrier()

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """Larger is better; the ranks share the candidates."""
        return shared(candidates, self._score, self.world)

    def _score(self, candidate: Candidate) -> float:
        model = self.supernet.network(candidate)
        size = candidate.get(SIZE)
        retake_statistics(model, (resized(b, size) for b in self._batches()))
        sized = _Sized(model, size) if size else model
        sized.eval()
        value = next(iter(self._evaluator.run(task=self.task.scoring(sized)).values()))
        return value if self.higher_is_better else -value

    def _batches(self) -> Iterator[Tensor]:
        if not self._first:
            for batch in self.loader.epoch(1):
                self._first.append(batch["image"])
                if len(self._first) == _BATCHES:
                    break
        yield from self._first

    def first_images(self) -> Tensor:
        """A batch of training images (N, C, H, W), for what untrained networks say of them."""
        return next(self._batches())[:_LOOKED_AT]

    def weights(self, candidate: Candidate, path: Path) -> Path:
        """Write the candidate's part of the weights, with statistics of its own."""
        model = self.supernet.network(candidate)
        size = candidate.get(SIZE)
        retake_statistics(model, (resized(b, size) for b in self._batches()))
        write_bytes(path, pickle.dumps(checkpoint.arrays(model), protocol=4))
        return path

    def close(self) -> None:
        """End the data workers."""
        self.loader.close()
        self._evaluator.loader.close()


def shared(
    candidates: Sequence[Candidate], score: Callable[[Candidate], float], world: World
) -> list[float]:
    """The score of each; every rank makes its part of them."""
    mine = candidates[world.rank :: world.size]
    found = {digest(candidate): score(candidate) for candidate in mine}
    together = {k: v for part in world.gather(found) for k, v in part.items()}
    return [together[digest(candidate)] for candidate in candidates]


class _Sized(nn.Layer):
    """A network that sees its images at another size."""

    def __init__(self, model: nn.Layer, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Any:
        return self.model(resized(x, self.size))


def resized(images: Tensor, size: int | None) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size)."""
    if size is None or list(images.shape[2:]) == [size, size]:
        return images
    return F.interpolate(images, size=[size, size], mode="bilinear")


class ProxyJudge:
    """Trains candidates alone, each in a process of its own, in `folder`.

    tree: the recipe whose `DataLoader.Eval` judges, and that trains for `whole_epochs`.
    """

    def __init__(
        self,
        tree: Tree,
        networks: Networks,
        higher_is_better: bool,
        folder: Path,
        whole_epochs: float,
    ) -> None:
        self.tree, self.networks, self.folder = tree, networks, folder
        self.higher_is_better, self.whole_epochs = higher_is_better, whole_epochs

    def score(
        self, candidate: Candidate, epochs: int, weights: Path | None = None, scale: float = 1.0
    ) -> float:
        """The last evaluation's score after `epochs` from `weights`; larger is better.

        Its images, those that judge as well, are `scale` times as long and wide.
        """
        place = self.run_dir(candidate, epochs, scale).parent
        whole = with_length(self.tree, epochs, self.whole_epochs)
        tree = self.networks.recipe(whole, candidate, str(weights) if weights else None)
        run = tree["Global"] = dict(tree.get("Global") or {})
        run |= {"output_dir": str(place), "checkpoints": checkpoint.AUTO}
        run |= {"eval_during_train": True, "eval_interval": 1, "start_eval_epoch": epochs - 1}
        run |= {"keep_last": 1, "pretrained_model": None, "cpu_processes": 1}
        run |= {"run_name": self.networks.space.network, "teacher_cache": None}
        if scale != 1:
            *_, edge = size_of(candidate, self.networks.shape)
            run |= {"image_size": round(scale * edge), "eval_image_size": None}
        recipe = place / "recipe.yaml"
        place.mkdir(parents=True, exist_ok=True)
        write_text(recipe, dump(plain_copy(tree)))
        self._run(["train", "-c", str(recipe)], place / "log.txt")
        value = _last_score(self.run_dir(candidate, epochs, scale) / "metrics.jsonl")
        return value if self.higher_is_better else -value

    def run_dir(self, candidate: Candidate, epochs: int, scale: float = 1.0) -> Path:
        """Where its training of that length lies."""
        name = f"{epochs}_epochs" if scale == 1 else f"{epochs}_epochs_of_{scale:g}"
        return self.folder / digest(candidate) / name / self.networks.space.network

    def _run(self, arguments: Sequence[str], log_file: Path) -> None:
        alone = {k: v for k, v in os.environ.items() if k not in {*PADDLE, *TORCHRUN, *SRUN}}
        with log_file.open("ab") as output:
            done = subprocess.run(
                toolkit_command(arguments),
                env=environment(alone),
                stdout=output,
                stderr=output,
                preexec_fn=tied(),  # else it would train on when the search has been killed
            )
        if done.returncode:
            tail = log_file.read_text(encoding="utf-8", errors="replace").strip()[-800:]
            raise UserError(
                f"search: the training of a candidate ended with status {done.returncode} "
                f"({log_file}); start the same command again to go on. Its last words:\n{tail}"
            )


def with_length(tree: Tree, epochs: int, whole_epochs: float) -> Tree:
    """A recipe of `whole_epochs` as one of `epochs`, with as much shorter a warm-up.

    With its own a short training would hardly be anything else.
    """
    tree, share = plain_copy(tree), min(1.0, epochs / whole_epochs)
    run = tree["Global"] = dict(tree.get("Global") or {})
    run |= {"epochs": epochs, "iters": None, "eval_steps": None}
    schedule = tree["Optimizer"].get("lr")
    if isinstance(schedule, dict):
        for key, number in (("warmup_epoch", float), ("warmup_steps", round)):
            if schedule.get(key):
                schedule[key] = number(share * schedule[key])
    return tree


def _last_score(path: Path) -> float:
    """The main value of the last evaluation in a metrics.jsonl."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = [record for record in records if record["kind"] == "eval"][-1]
    name = next(key for key in last if key not in ("kind", "epoch", "step"))
    return float(last[name])

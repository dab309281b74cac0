"""Check a configuration tree against the schema, and build components from it.

`check` walks the whole tree along the annotations of settings.py and of the constructors that the
tree names, and reports every mistake at once, before Paddle is even imported. What it returns is
the same tree with values converted and each component as a `Node`, which builds on demand.
Read before: file.py (YAML to tree), walk.py. Read next: complete.py (what follows from it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.config import registry
from ppcls_lite.config.node import Node
from ppcls_lite.config.schema import DISTILLATION_MODEL, ComponentOf
from ppcls_lite.config.settings import RETRIEVAL, RecipeSettings
from ppcls_lite.config.walk import Walker
from ppcls_lite.errors import ConfigError, joined


def check(tree: dict[str, Any], notes: list[str] | None = None) -> RecipeSettings:
    """Check a whole recipe; every mistake goes into one ConfigError.

    `notes` collects what a log should say about keys that are accepted but have no effect.
    """
    refusal = _refusal(tree)
    if refusal:  # everything else in such a recipe would be unknown as well
        raise ConfigError(refusal)
    walker = Walker(registry.entries(plugins_of(tree)))
    settings = walker.dataclass(tree, RecipeSettings, "")
    if walker.problems:
        count = len(walker.problems)
        head = f"{count} mistake{'s' if count > 1 else ''} in the configuration:"
        raise ConfigError(joined([head, *walker.problems], "\n  "))
    _check_length(tree.get("Global") or {})
    terms = settings.Loss.Train if settings.Loss else []
    if terms and all(term.get("weight") == 0 for term in terms):
        raise ConfigError("Loss.Train: every loss has the weight 0: nothing would be learned")
    if settings.Arch.entry.name == DISTILLATION_MODEL:
        walker.notes += _check_distillation(settings)
    if notes is not None:
        notes.extend(walker.notes)
    return settings


def plugins_of(tree: dict[str, Any]) -> list[str]:
    """The files that `Global.plugins` names, as far as it is a list of texts."""
    run = tree.get("Global")
    files = run.get("plugins") if isinstance(run, dict) else None
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


def build(node: Any, kind: str, plugins: Sequence[str | Path] = (), **context: Any) -> Any:
    """Check and build one component from its YAML form, e.g. `{"ResizeImage": {"size": 32}}`.

    It may come from one of the files `plugins`.
    """
    return checked(node, kind, plugins).build(**context)


def checked(node: Any, kind: str, plugins: Sequence[str | Path] = ()) -> Node:
    """One component from its YAML form, as `build` takes it, checked and not built."""
    walker = Walker(registry.entries(plugins))
    found = walker.component(node, ComponentOf(kind), kind)
    if walker.problems:
        raise ConfigError(joined(walker.problems))
    return found


def read_section(value: Any, kind: type, path: str) -> Any:
    """A section of the settings, as `kind`, from its YAML form; None where it is left out."""
    if value is None:
        return None
    walker = Walker({})
    found = walker.dataclass(value, kind, path)
    if walker.problems:
        raise ConfigError(joined(walker.problems))
    return found


def build_list(
    nodes: Iterable[Any], kind: str, plugins: Sequence[str | Path] = (), **context: Any
) -> list[Any]:
    """`build` for each item of a list such as `transform_ops`."""
    return [build(node, kind, plugins, **context) for node in nodes]


def _refusal(tree: dict[str, Any]) -> str | None:
    """Why a recipe cannot run at all: one of PaddleClas for retrieval or hashing."""
    run, arch = (tree.get(section) or {} for section in ("Global", "Arch"))
    if not (isinstance(run, dict) and isinstance(arch, dict)):
        return None
    if run.get("eval_mode") == "retrieval" or arch.get("name") == "RecModel":
        return f"Arch and Global.eval_mode: {RETRIEVAL}"
    if arch.get("name") == "InferenceModel":
        return (
            "Arch.name: InferenceModel has nothing to train; it can be a frozen teacher among the "
            "models of a DistillationModel (docs/distillation.md)"
        )
    return None


def _check_length(run: dict[str, Any]) -> None:
    """Raise ConfigError unless `Global` says in one way how long the run is."""
    given = [key for key in ("iters", "epochs") if run.get(key) is not None]
    if len(given) == 2:
        raise ConfigError(
            f"Global.iters: {run['iters']}, and Global.epochs: {run['epochs']}: both say how long "
            "the run is; set one of them to null (-o Global.epochs=null)"
        )
    if "epochs" in run and not given:
        raise ConfigError("Global.epochs: is null, and so is Global.iters: give one of them")
    if run.get("eval_steps") is not None and "iters" not in given:
        raise ConfigError(
            "Global.eval_steps: counts updates, so the run has to, too: give Global.iters and set "
            "Global.epochs to null, or use Global.eval_interval"
        )
    if run.get("eval_steps") and int(run["iters"]) % int(run["eval_steps"]):
        raise ConfigError(
            f"Global.eval_steps: {run['eval_steps']} does not divide Global.iters, {run['iters']}"
        )


def _check_distillation(settings: RecipeSettings) -> list[str]:
    """Notes on a DistillationModel; raises ConfigError where its keys do not fit together."""
    arch = settings.Arch
    description = arch.build()  # its constructor compares the keys
    first = description.members[0]
    for section in (settings.Loss, settings.Metric):
        for split in ("Train", "Eval"):
            description.require_names(getattr(section, split, None) or [], split == "Eval")
    if arch.extras.pretrained:
        raise ConfigError(
            f"Arch.pretrained: each network of a {DISTILLATION_MODEL} has its own weights: "
            f"{first.path}.pretrained, for example"
        )
    place = f"{first.path}.use_ssld"
    unused = arch.extras.use_ssld
    return [f"Arch.use_ssld: accepted, but has no effect here; {place} has"] if unused else []

"""`ppcls-lite tune -c FILE --try KEY=VALUES ...`. Read next: tune.py."""

from __future__ import annotations

from ppcls_lite.config.complete import Recipe
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import TRY_AGAIN, UserError
from ppcls_lite.inference.cli.options import not_negative, positive
from ppcls_lite.recipe.cli import parser
from ppcls_lite.system import cores


def run(argv: list[str]) -> int:
    """The command; returns 75 where the time was over before the search was."""
    options = parser("tune", "Train settings of a recipe a little, the best of them to the end.")
    text = "a key and what to try: KEY=0.1,0.3,1 or, logarithmic, KEY=1e-3..1; repeatable"
    options.add_argument("--try", dest="tries", action="append", metavar="KEY=...", help=text)
    text = "minutes after which the search ends; the same command continues it"
    options.add_argument("--minutes", type=not_negative, metavar="M", help=text)
    text = "settings to draw (all combinations of lists; 9 with a range)"
    options.add_argument("--trials", type=positive, metavar="N", help=text)
    args = options.parse_args(argv)
    if not args.tries:
        raise UserError("tune: say what to try, e.g. --try Optimizer.lr.learning_rate=0.1,0.3,1")
    Recipe.of(load_config(args.config, args.override))
    cores.claim()
    from ppcls_lite.engine.callbacks import FitResult
    from ppcls_lite.recipe.closing import next_commands
    from ppcls_lite.recipe.tune import in_words, leaderboard, tune

    search = tune(args.config, args.tries, args.minutes, args.trials, args.override)
    print(leaderboard(search))
    best = search.trials[0]
    if best.score is not None:
        print(f"Best: {best.run_dir}, its recipe: {search.folder / 'best.yaml'}")
        given = "".join(f" -o {item}" for item in args.override)
        print(f"  ppcls-lite train -c {args.config}{given} {in_words(best.values)}")
    if not search.complete:
        print("The search is not complete: the same command continues it")
    elif best.score is not None:
        settings = Recipe.of(load_config(search.folder / "best.yaml")).settings
        print("\n  ".join(["Next:", *next_commands(FitResult(best.run_dir, {}, {}), settings)]))
    return search.exit_code if search.complete or search.exit_code else TRY_AGAIN

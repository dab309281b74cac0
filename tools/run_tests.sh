#!/usr/bin/env bash
# Everything the tests need, then the tests. Arguments go to pytest: tools/run_tests.sh -k config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh tests/requirements.txt
export OMP_NUM_THREADS=1

if [ $# -eq 0 ]; then
  ruff check .
  ruff format --check .
fi
# One worker for each core, at most four (about 2 GB each); the slowest tests are named at the end.
# What failed is run once more, one test after another: a busy machine can end a worker.
python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 20 "$@" || {
  status=$?
  [ "$status" -eq 1 ] || exit "$status"
  echo "== once more, in one process: what failed"
  python -m pytest --last-failed --last-failed-no-failures none "$@"
}

#!/usr/bin/env bash
# Everything the tests need, then the tests. Arguments go to pytest: tools/run_tests.sh -k config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh tests/requirements.txt

if [ $# -eq 0 ]; then
  ruff check .
  ruff format --check .
fi
# One worker for each core, at most four (about 2 GB each); the slowest tests are named at the end.
OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist worksteal --durations 20 "$@"

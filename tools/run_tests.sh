#!/usr/bin/env bash
# Everything the tests need, then the tests. Arguments go to pytest: tools/run_tests.sh -k config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh "pytest>=8" "ruff>=0.6" "scikit-learn>=1.3" "onnx>=1.15" "safetensors>=0.4" \
  "openvino>=2024.4" "onnxruntime>=1.18" \
  "starlette>=0.37" "uvicorn>=0.30" "httptools>=0.6" "python-multipart>=0.0.13" "prometheus-client>=0.20" "httpx>=0.27"

if [ $# -eq 0 ]; then
  ruff check .
  ruff format --check .
fi
OMP_NUM_THREADS=1 python -m pytest "$@"

#!/usr/bin/env bash
# From nothing to a served model in a few minutes: environment, real data (1,797 handwritten
# digits), training, evaluation, export, prediction with Paddle Inference + oneDNN, summary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/setup_env.sh "scikit-learn>=1.3"

config=configs/quickstart/digits.yaml
run=output/digits/PPLCNet_x0_25
model=inference/digits

echo "== data";       python tools/prepare_data.py digits --output dataset/digits
echo "== training";   python tools/train.py -c "$config"
echo "== evaluation"; python tools/eval.py -c "$config" -o Global.pretrained_model="$run/best_model"
echo "== export";     python deploy/export.py -c "$config" \
  -o Global.pretrained_model="$run/best_model" -o Global.save_inference_dir="$model"
echo "== prediction"; images=(dataset/digits/val/*.png)
python deploy/predict.py --model "$model" --input "${images[@]:0:20}" --topk 1 \
  --output output/digits/predictions.jsonl
echo "== summary";    python tools/summary.py "$run" "$model" "${images[0]}"

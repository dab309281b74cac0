"""The end of the quick start: python tools/summary.py RUN_FOLDER MODEL_FOLDER IMAGE."""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite import Predictor

run, model, image = map(Path, sys.argv[1:4])
top1 = json.loads((run / "eval.json").read_text(encoding="utf-8"))["top1"]
predictor = Predictor(model)
batch = predictor.preprocess(image)[None]
times = []
for _ in range(200):
    start = time.perf_counter()
    predictor.predict_batch(batch)
    times.append(1000 * (time.perf_counter() - start))
print(f"""
  top-1 on images that were not trained on: {100 * top1:.2f} %
  latency (Paddle Inference + oneDNN, batch 1): {statistics.median(times):.2f} ms, median of 200
  run: {run} (best_model.pdparams, train.log, curves.png, confusion_matrix.png)
  exported model: {model}

Next, your own photographs, one sub-folder per class:
  python tools/prepare_data.py folder MY_PHOTOS
  and docs/data.md; or serve this model: python deploy/predict.py --model {model} --input FILE""")

"""The end of the quick start: python tools/summary.py RUN_FOLDER MODEL_FOLDER IMAGE [PICTURES]."""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppcls_lite import Predictor

run, model, image, *pictures = map(Path, sys.argv[1:5])
scores = json.loads((run / "eval.json").read_text(encoding="utf-8"))
name, score = next((n, s) for n, s in scores.items() if n != "weights")  # the main one is first
predictor = Predictor(model)
batch = predictor.preprocess(image)[None]
times = []
for _ in range(200):
    start = time.perf_counter()
    predictor.predict_batch(batch)
    times.append(1000 * (time.perf_counter() - start))
files = ", ".join(sorted(path.name for path in run.glob("*.png")))
print(f"""
  {name} on images that were not trained on: {100 * score:.2f} %
  latency (Paddle Inference + oneDNN, batch 1): {statistics.median(times):.2f} ms, median of 200
  run: {run} (best_model.pdparams, train.log, {files})
  exported model: {model}""")
for folder in pictures:
    print(f"  pictures of predictions: {len([*folder.rglob('*.*')])} in {folder}")

#!/usr/bin/env bash
# From nothing to an exported model in a few minutes: environment, real data that need no download,
# training, evaluation, export, prediction with Paddle Inference + oneDNN, summary.
# Usage: bash tools/quickstart.sh [classification | segmentation | detection]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A task is its data, its recipe, and what to read next; everything below is the same for all.
# The names of recipe and folders follow from each other: output/NAME, inference/NAME.
topk=() options=() packages=() place= trunk=
case "${1:-classification}" in
  classification)  # 1,797 handwritten digits
    data=digits name=digits network=PPLCNet_x0_25 docs=docs/data.md topk=(--topk 1)
    own="python tools/prepare_data.py folder MY_PHOTOS (one sub-folder per class)" ;;
  segmentation)  # the digits on cards on canvases: a class for each pixel
    data=scenes name=scenes_segmentation network=deeplabv3p_PPLCNet_x0_35
    docs=docs/segmentation.md options=(--cards --images 3000) place=dataset/cards trunk=scenes_trunk
    own="python tools/prepare_data.py masks MY_FOLDER (images/a.jpg and masks/a.png)" ;;
  detection)  # the digits on canvases: where each of them is
    data=scenes name=scenes_detection network=PicoDet docs=docs/detection.md
    options=(--images 1000) packages=("faster-coco-eval>=1.6")
    own="python tools/prepare_data.py coco|voc|yolo|labelme MY_FOLDER" ;;
  *) echo "usage: bash tools/quickstart.sh [classification | segmentation | detection]" >&2; exit 2 ;;
esac
source tools/setup_env.sh "scikit-learn>=1.3" "${packages[@]}"

config=configs/quickstart/$name.yaml
place=${place:-dataset/$data}
run=output/$name/$network
model=inference/$name
weights="Global.pretrained_model=$run/best_model"

if [ -n "$trunk" ]; then  # what the network stands on learns to tell digits apart first
  echo "== trunk"; python tools/prepare_data.py digits --output dataset/digits
  python tools/train.py -c "configs/quickstart/$trunk.yaml"
fi
echo "== data";       python tools/prepare_data.py "$data" --output "$place" "${options[@]}"
echo "== training";   python tools/train.py -c "$config"
echo "== evaluation"; python tools/eval.py -c "$config" -o "$weights"
echo "== export";     python deploy/export.py -c "$config" -o "$weights" \
  -o Global.save_inference_dir="$model"
echo "== prediction"
images=("$place"/val/*.* "$place"/images/val/*.*)
for i in "${!images[@]}"; do [ -f "${images[i]}" ] || unset "images[i]"; done
images=("${images[@]:0:20}")
python deploy/predict.py --model "$model" --input "${images[@]}" "${topk[@]}" \
  --output "output/$name/predictions.jsonl" --draw "output/$name/pictures"
echo "== summary";    python tools/summary.py "$run" "$model" "${images[0]}" \
  "output/$name/pictures"
cat <<END

Next, your own data:
  $own
  and $docs; or serve this model: python deploy/server.py --model $model
END

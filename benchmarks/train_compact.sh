#!/bin/sh
# The stages of the embedded model's next version, from a start to a model folder.
#
#     sh benchmarks/train_compact.sh DATA OUTPUT [START]
#
# DATA is a folder with photos/ and more/ (../shared/data/train), START a model folder: what fits of its networks is
# taken, the rest begins anew; without it one is trained from scratch first. Version 12 was made by this file at commit
# cd3be35; from it these stages made version 14 (docs/training.md says in which order). Stopped and called again,
# everything goes on where it was; the model is OUTPUT/compact. DEVICE=cuda WORKERS=14 in the environment puts it on a
# GPU.
set -eu
data=$1
output=$2
start=${3:-}
here=$(dirname "$0")
device="--device ${DEVICE:-cpu} --workers ${WORKERS:-0}"
mkdir -p "$output"

# shellcheck disable=SC2086  # two options
for kind in "--shards 40" "--shards 17 --own-size"; do
    python "$here/teacher_shards.py" "$data/photos" "$data/more" --output "$output/shards" $kind \
        --device "${DEVICE:-cpu}" --workers "${WORKERS:-1}"
done
# From version 11 on, each went on from the one before (--start); version 15's by 2,000 steps.
python "$here/compact_estimator.py" "$data/photos" "$data/more" --run "$output/estimator" --steps 6000 $device
if [ -z "$start" ]; then
    start=$output/base/model
    [ -e "$output/base.done" ] || s3diff train compact --data "$data/photos" --output "$output/base" --cpu \
        --set data.truth_blur_px=0,0 --set loss.lpips_alex=0 --set loss.dists=0 --set data.crop_px=128 \
        --set data.batch_size=8 --set optimiser.kind=muon \
        $(if [ -d "$output/base/checkpoints" ]; then echo --resume; fi)
    touch "$output/base.done"
fi

stage() { # name, the model it starts from, then options
    name=$1
    from=$2
    shift 2
    python "$here/compact_student.py" --shards "$output/shards" --run "$output/$name" --start "$from" \
        $device "$@"
}
[ -d "$output/start" ] || python "$here/sharper_degrees.py" "$start" "$output/start" \
    --estimator "$output/estimator/estimator.safetensors"
# What can be told from the input is learned from pixels; then a term for contrast and the heads on features bring the
# contrast within some hundred steps.
stage pixels "$output/start" --steps 4300 --learning-rate 6e-4 --pattern 0 --stairs 0 --average 0.998
stage heads "$output/pixels/model" --steps 2600 --decay 1200 --learning-rate 5e-4 --l1 2 --lpips-vgg 0.7 --contrast 4 \
    --adversarial 0.15 --pattern 0.8 --stairs 3 --rims 5 --average 0.995
# Version 15 is the mean of 14's and 13's weights (mean_of_weights.py 14 13) with a newer estimator (sharper_degrees.py).
rm -rf "$output/compact"
cp -r "$output/heads/model" "$output/compact"

#!/bin/sh
# The embedded model's stages, from a start to the model that is shipped.
#
#     sh benchmarks/train_compact.sh DATA OUTPUT [START]
#
# DATA is a folder with photos/ and more/ (../shared/data/train), START a model folder with the networks of
# compact_generator(); without it one is trained from scratch first. Version 10 started from version 9's weights, which
# the stages of this file at commit 4c0c5dd made in seven hours. Stopped and called again, everything goes on where it
# was; the model is OUTPUT/clean/model. docs/training.md says what the stages are for.
set -eu
data=$1
output=$2
start=${3:-}
here=$(dirname "$0")
mkdir -p "$output"

python "$here/teacher_shards.py" "$data/photos" "$data/more" --output "$output/shards" --shards 61
# The shipped estimator was grown from version 9's, by 1,800 steps of its shape and 1,950 of this one.
python "$here/compact_estimator.py" "$data/photos" "$data/more" --run "$output/estimator" --steps 6000
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
        --estimator "$output/estimator/estimator.safetensors" "$@"
}
stage faithful "$start" --steps 1100 --l1 1 --lpips-vgg 0.3 --perceptual-images 2 --stairs 0 --average 0.998
stage sharp "$output/faithful/model" --steps 2300 --l1 0.6 --lpips-vgg 1 --dists 1 --adversarial 0.06
stage clean "$output/sharp/model" --steps 650 --decay 600 --l1 2 --lpips-vgg 1 --dists 0.3 --pattern 0.5 --stairs 3 \
    --average 0.995

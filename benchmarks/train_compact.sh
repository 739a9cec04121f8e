#!/bin/sh
# The stages of the embedded model's next version, from a start to a model folder.
#
#     sh benchmarks/train_compact.sh DATA OUTPUT [START]
#
# DATA is a folder with photos/ and more/ (../shared/data/train), START a model folder: what fits of its networks is
# taken, the rest begins anew; without it one is trained from scratch first. Version 10 was made by this file at commit
# 8b84ad6; from it these stages made version 11, by programs that grew on the way: `sharp` on truths that were sharpened,
# shards of mild crops with the teacher from `crisp` on, the teacher kept to the truth's range in `rims` (whose term had
# the weight 4 and a range of 4 px to step 1,100). Stopped and called again, everything goes on where it was; the model is
# OUTPUT/compact. DEVICE=cuda WORKERS=14 in the environment puts it on a GPU.
# docs/training.md says what the stages are for.
set -eu
data=$1
output=$2
start=${3:-}
here=$(dirname "$0")
device="--device ${DEVICE:-cpu} --workers ${WORKERS:-0}"
mkdir -p "$output"

# shellcheck disable=SC2086  # two options
for kind in "--shards 58" "--shards 14 --own-size"; do
    python "$here/teacher_shards.py" "$data/photos" "$data/more" --output "$output/shards" $kind \
        --device "${DEVICE:-cpu}" --workers "${WORKERS:-1}"
done
# Version 11's went on from version 10's, by 2,400 steps (--start).
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
        --estimator "$output/estimator/estimator.safetensors" --perceptual-images 2 --learning-rate 7e-4 $device "$@"
}
stage grow "$start" --steps 500 --l1 1 --lpips-vgg 0.5 --dists 0.5 --stairs 1 --average 0.99
stage teach "$output/grow/model" --steps 300 --l1 1.5 --lpips-vgg 1 --dists 0.3 --pattern 0.5 --stairs 2
stage sharp "$output/teach/model" --steps 700 --decay 280 --l1 1.5 --lpips-vgg 1 --dists 0.4 --adversarial 0.04 \
    --pattern 0.5 --stairs 2 --average 0.995
stage clean "$output/sharp/model" --steps 260 --decay 240 --l1 2 --lpips-vgg 1 --dists 0.15 --pattern 1 --stairs 4 \
    --average 0.98
stage crisp "$output/clean/model" --steps 1200 --l1 1.5 --lpips-vgg 1 --dists 0.3 --pattern 0.5 --stairs 2 --average 0.995
stage gan "$output/crisp/model" --steps 700 --decay 200 --l1 1 --lpips-vgg 1 --dists 0.4 --adversarial 0.08 \
    --discriminator "$output/sharp/state.pt" --pattern 0.7 --stairs 3 --average 0.99 --learning-rate 6e-4
stage rims "$output/gan/model" --steps 1800 --decay 500 --l1 1.2 --lpips-vgg 1 --dists 0.4 --adversarial 0.05 \
    --pattern 0.8 --stairs 3 --rims 8 --average 0.995 --learning-rate 6e-4
# Version 12 is version 11 with an estimator of 2,600 steps more.
rm -rf "$output/compact"
python "$here/sharper_degrees.py" "$output/rims/model" "$output/compact" --estimator "$output/estimator/estimator.safetensors"

#!/bin/sh
# The embedded model from nothing, in one command: the stages and settings of the shipped weights.
#
#     sh benchmarks/train_compact.sh PHOTOS OUTPUT
#
# About an hour and a half on two CPU cores. Stopped and called again, it goes on where it was. What the stages are for
# is told in docs/training.md.
set -eu
photos=$1
output=$2
mkdir -p "$output"

goes_on() { # options for a run that has checkpoints
    if [ -d "$1/checkpoints" ]; then echo "$2"; fi
}

stage() { # name, then settings: goes on in the same run; a stage that is done is passed over
    name=$1
    shift
    if [ -e "$output/$name.done" ]; then return; fi
    # shellcheck disable=SC2046
    s3diff train compact --data "$photos" --output "$output/compact" --estimator "$output/estimator" --cpu \
        $(goes_on "$output/compact" "--resume --accept-changes") "$@"
    touch "$output/$name.done"
}

if [ ! -e "$output/estimator.done" ]; then
    # shellcheck disable=SC2046
    s3diff train-estimator --recipe compact_estimator --data "$photos" --output "$output/estimator" --cpu \
        $(goes_on "$output/estimator" --resume)
    touch "$output/estimator.done"
fi

# Pixels alone.
stage pixels --set loss.l1=1 --set optimiser.max_steps=10000 --set optimiser.decay_steps=5000 --set run.stop_step=4500
# Half the batch, and DISTS on all of it.
stage perceptual --set data.batch_size=4 --set loss.vgg_images=0 --set loss.l1=1 --set loss.lpips_alex=0.4 \
    --set loss.lpips_vgg=0 --set loss.dists=1 --set optimiser.max_steps=10000 --set optimiser.decay_steps=5500 \
    --set run.stop_step=5233
# LPIPS on VGG16 against fine patterns, while the rate falls to zero.
stage final --set data.batch_size=4 --set loss.vgg_images=0 --set optimiser.max_steps=7900 --set optimiser.decay_steps=2650

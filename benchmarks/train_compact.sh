#!/bin/sh
# The embedded model from nothing, in one command: the stages and settings of the shipped weights.
#
#     sh benchmarks/train_compact.sh PHOTOS OUTPUT
#
# About seven hours on two CPU cores; the model is OUTPUT/dial/model. Stopped and called again, it goes on
# where it was. What the stages are for is told in docs/training.md.
set -eu
photos=$1
output=$2
mkdir -p "$output"

goes_on() { # options for a run that has checkpoints
    if [ -d "$1/checkpoints" ]; then echo "$2"; fi
}

once() { # name, then a command: one that is done is passed over
    name=$1
    shift
    if [ -e "$output/$name.done" ]; then return; fi
    "$@"
    touch "$output/$name.done"
}

stage() { # name, then settings: goes on in the same run
    name=$1
    shift
    # shellcheck disable=SC2046
    once "$name" s3diff train compact --data "$photos" --output "$output/compact" --estimator "$output/estimator" --cpu \
        $(goes_on "$output/compact" "--resume --accept-changes") "$@"
}

# shellcheck disable=SC2046
once estimator s3diff train-estimator --recipe compact_estimator --data "$photos" --output "$output/estimator" --cpu \
    $(goes_on "$output/estimator" --resume)

alone="--set loss.l1=1 --set data.crop_px=128 --set data.batch_size=8 --set optimiser.learning_rate=3e-4"
sharp="--set data.truth_blur_px=0,0 --set data.min_detail=2"

# Pixels alone: blur first.
# shellcheck disable=SC2086
stage pixels $alone $sharp --set data.degradations=camera,camera,s3diff,mild --set dial_probability=0.2 \
    --set optimiser.max_steps=10000 --set optimiser.decay_steps=5000 --set run.stop_step=4500
# Noise, and the dial.
# shellcheck disable=SC2086
stage noise $alone $sharp --set loss.l1=0.7 \
    --set data.degradations=camera,camera,s3diff,grainy,mild,grainy --set dial_probability=0.3 \
    --set optimiser.decay_steps=0 --set optimiser.max_steps=6000
# A truth as soft as a camera's, and the rims of cameras.
# shellcheck disable=SC2086
stage rims $alone --set optimiser.decay_steps=0 --set optimiser.max_steps=7500
# The perceptual terms.
stage perceptual

by_muon() { # run, the model that it starts from, name, then settings: goes on in the same run
    run=$1
    start=$2
    name=$3
    shift 3
    # shellcheck disable=SC2046
    once "$name" s3diff train compact --from "$start" --data "$photos" --output "$output/$run" --cpu \
        $(goes_on "$output/$run" "--resume --accept-changes") --set start=model --set loss.perceptual_from_step=0 \
        --set optimiser.kind=muon "$@"
}

# The same from the model that they gave, by Muon, on what cameras do; longer than first meant.
muon() {
    by_muon muon "$output/compact/model" "$@" --set data.degradations=sharpened,camera,sharpened,camera,mild,grainy \
        --set loss.dists=1.2 --set optimiser.learning_rate=3e-4 --set optimiser.decay_steps=1800
}
muon cameras --set optimiser.max_steps=3300 --set run.stop_step=2333
muon longer --set optimiser.max_steps=3900
# From that model, on what a camera's whole processing leaves, on enlarged crops and with collages: first the
# perceptual terms, then pixels alone on four times as many images, then the perceptual terms again.
cameras="--set data.degradations=processed,camera,processed,mild,processed,grainy --set data.enlargement=1,1.8 \
    --set data.truth_blur_px=0.3,1.0 --set data.collage_probability=0.3 --set loss.vgg_precision=bfloat16"
pixels="--set loss.dists=0 --set loss.lpips_alex=0 --set data.crop_px=128 --set data.batch_size=8 \
    --set optimiser.learning_rate=5e-4 --set optimiser.decay_steps=0 --set optimiser.max_steps=20000"
processed() { # name, then settings
    name=$1
    shift
    # shellcheck disable=SC2086
    by_muon processed "$output/muon/model" "$name" $cameras --set loss.dists=2.0 --set optimiser.learning_rate=3e-4 \
        --set optimiser.ema_decay=0.9995 --set optimiser.decay_steps=8000 --set optimiser.max_steps=11000 "$@"
}
processed as-before --set data.degradations=sharpened,camera,sharpened,camera,mild,grainy --set data.enlargement=1,1 \
    --set data.truth_blur_px=0.4,1.0 --set data.collage_probability=0 --set loss.dists=1.2 --set run.stop_step=1036
processed enlarged --set data.collage_probability=0 --set loss.dists=1.2 --set run.stop_step=1360
processed collages --set loss.dists=1.2 --set run.stop_step=2129
processed statistics --set run.stop_step=3132
# shellcheck disable=SC2086
processed processed-pixels $pixels --set run.stop_step=5184
again="--set loss.l1=0.7 --set optimiser.learning_rate=4e-4 --set optimiser.ema_decay=0.999 --set optimiser.decay_steps=4000"
# shellcheck disable=SC2086
processed perceptual-again $again --set optimiser.max_steps=10900 --set run.stop_step=9971
# shellcheck disable=SC2086
processed to-the-end $again --set loss.dists=2.5 --set loss.lpips_alex=0.25 --set optimiser.max_steps=11500
# From that model, the dial: more images teach it, and more of them its ends. Pixels alone, then all terms.
dial() { # name, then settings
    name=$1
    shift
    # shellcheck disable=SC2086
    by_muon dial "$output/processed/model" "$name" $cameras --set optimiser.ema_decay=0.999 "$@"
}
# shellcheck disable=SC2086
dial dial-pixels $pixels --set loss.l1=1 --set dial_probability=0.6 --set run.stop_step=1800 \
    --set data.degradations=processed,camera,grainy,mild,processed,grainy
dial dial-perceptual --set loss.l1=0.7 --set loss.dists=2.5 --set loss.lpips_alex=0.25 --set dial_probability=0.5 \
    --set optimiser.learning_rate=4e-4 --set optimiser.max_steps=8300 --set optimiser.decay_steps=4500

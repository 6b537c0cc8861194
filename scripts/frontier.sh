#!/usr/bin/env bash
# The comparison of conf/experiment/sweep/frontier.yaml with its controls, several runs side by side, ordered so that a
# cut at any moment leaves whole budgets: the all-ReLU control (and with it the teacher), quadratics in place of all
# ReLUs, then all methods budget by budget. Run again with the same folder, it goes on.
#
#   scripts/frontier.sh IMAGES OUT MINUTES PROCESSES [NAME=VALUE ...] [OVERRIDES ...]
#
# More PROCESSES train more images a second (docs/benchmarks.md, GPU), but their runs end late, all together: no more than
# will end in MINUTES. On a GPU start MPS (docs/sweeps.md) and add trainer.compile=reduce-overhead: 15 at a time, about 37
# runs of 30 epochs in 10 minutes of an H200. IMAGES holds cifar-10-batches-py/; records, masks, configs, report and logs
# go to OUT. A mask of OUT/masks whose run did not end is retrained by `relinearize run method=given method.search.file=MASK`. NAME=VALUE:
#   BUDGETS="0.026 0.1"   fractions of the ReLUs, in this order
#   SEEDS="0 1 2"         all budgets of a seed before the next seed
#   ARMS="one_shot snl+retrain progressive:score=snip"   some of the methods below; METHOD+retrain: with the fine-tuning
#       of `progressive`; METHOD:KEY=VALUE:...: with these settings, a curve of its own. ARMS=ablation: what each part of
#       `progressive` is worth
# Copies of CIFAR-10 that went through JPEG: dataset.verify=false 'dataset.title="CIFAR-10 (JPEG)"' as OVERRIDES. A dry
# run on a CPU:
#   scripts/frontier.sh unused /tmp/dry 10 2 BUDGETS=0.1 dataset=digits backbone=resnet8 budget.grid=[0.1] \
#       scale=debug total_epochs=14 method.teacher.epochs=1
set -euo pipefail
images=${1:?usage: frontier.sh IMAGES OUT MINUTES PROCESSES [NAME=VALUE ...] [OVERRIDES ...]} out=$2 minutes=$3 processes=$4
shift 4
budgets="0.026 0.1 0.05 0.013 0.3" seeds=0 overrides=()
arms="progressive snl+retrain snl one_shot random-fisher+retrain random+retrain senet+retrain senet relupruner+retrain relupruner"
ablation="progressive one_shot progressive:method.search.rungs=4:method.search.lowest=0.026:method.search.rung_epochs=3
progressive:method.search.continuation=0
progressive:method.search.exchanges=1 progressive:method.finetune.learning_rate=0.01 progressive:score=gradient
progressive:score=snip progressive:score=clipped progressive:score=mismatch progressive:score=relupruner progressive:score=random
one_shot:score=snip random-fisher+retrain random+retrain"
for argument in "$@"; do
    case $argument in
    BUDGETS=*) budgets=${argument#*=} ;;
    SEEDS=*) seeds=${argument#*=} ;;
    ARMS=ablation) arms=$ablation ;;
    ARMS=*) arms=${argument#*=} ;;
    *) overrides+=("$argument") ;;
    esac
done
mkdir -p "$out/logs" "$out/masks"

words() { # SEED ARM [BUDGET]: what the arm adds to the experiment
    local arm=${2%%:*} method
    method=${arm%+retrain}
    echo -n "seed=$1${3:+ budget.fraction=$3}"
    [ "$method" = "$arm" ] || echo -n " method/finetune=retrain"
    if [ "$arm" != "$2" ]; then
        local settings=${2#*:}
        echo -n " ${settings//:/ } method.name=${2//[:=.]/-}"
    fi
    case $method in
    random-fisher) echo " method=random_allocated sensitivity=fisher method.name=random-fisher+retrain" ;;
    # Of the scale's 10 + 16 epochs, so that SENet, too, has most of its epochs left under its mask.
    senet) echo " method=senet sensitivity.epochs=4 method.search.epochs=8" ;;
    no_relu) echo " method=no_relu replacement=quadratic" ;;
    *) echo " method=$method" ;;
    esac
}

list() {
    local seed budget arm
    for seed in $seeds; do
        words "$seed" all_relu+retrain ""
        words "$seed" no_relu ""
        for budget in $budgets; do
            for arm in $arms; do words "$seed" "$arm" "$budget"; done
        done
    done
}

export images out end=$(($(date +%s) + minutes * 60))
place() { # FILE TARGET: of several runs at once; cp itself fails where another has just made the target
    cp "$1" "$2.$BASHPID"
    mv -f "$2.$BASHPID" "$2"
}
run() { # WORDS OVERRIDE ...: one run; all but its weights are copied at once, and the masks of finished searches
    local words=$1 left=$((end - $(date +%s))) record search folder file
    [ "$left" -gt 0 ] || return 0
    # shellcheck disable=SC2086 # words, split on purpose
    timeout "$left" python3 -m relinearize run experiment=sweep/frontier method/teacher=classifier "dataset.root=$images" \
        "output=$out/work" trainer.progress=lines $words "${@:2}" > "$out/logs/${words//[ \/]/_}.txt" 2>&1 ||
        echo "failed or out of time: $words"
    for record in "$out"/work/runs/*/record.json; do
        [ -f "$record" ] || continue
        folder=$out/runs/$(basename "$(dirname "$record")")
        mkdir -p "$folder"
        for file in config.yaml mask.safetensors record.json; do
            place "${record%/*}/$file" "$folder/$file"
        done
    done
    for search in "$out"/work/store/search/*/budget-*/; do
        [ -f "$search/artifact.json" ] || continue
        folder=${search%/budget-*}
        place "$search/mask.safetensors" "$out/masks/${folder##*/}-$(basename "$search").safetensors"
    done
}
export -f place run
list | xargs -d '\n' -P "$processes" -I{} bash -c 'run "$@"' run {} "${overrides[@]}"
python3 -m relinearize report "$out/runs" | tee "$out/report.txt"

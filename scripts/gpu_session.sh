#!/usr/bin/env bash
# What to do with a CUDA machine that is there for a limited time: tests, benchmark, then SNL with the paper's recipe on
# CIFAR-10, ordered so that a cut at any moment leaves a usable curve. Run again with the same folder, it goes on.
#
#   scripts/gpu_session.sh IMAGES OUT MINUTES [OVERRIDES ...]
#
# IMAGES holds cifar-10-batches-py/; records, masks, report and logs go to OUT. Copies of CIFAR-10 that went through
# JPEG: dataset.verify=false 'dataset.title="CIFAR-10 (JPEG)"' as OVERRIDES. A dry run on a CPU:
#   scripts/gpu_session.sh unused /tmp/dry 5 dataset=digits backbone=resnet8 method.teacher.epochs=1 \
#       method.search.epochs=1 method.finetune.epochs=1 "budget.grid=[]" BUDGETS="2000 1000"
set -euo pipefail
images=${1:?usage: gpu_session.sh IMAGES OUT MINUTES [OVERRIDES ...]} out=$2 minutes=$3
shift 3
budgets="150k 100k 50k 25k 15k" overrides=()
for argument in "$@"; do
    case $argument in
    BUDGETS=*) budgets=${argument#BUDGETS=} ;;
    *) overrides+=("$argument") ;;
    esac
done
end=$((SECONDS + minutes * 60))
left() { echo $((end - SECONDS > 1 ? end - SECONDS : 1)); }
mkdir -p "$out"

timeout "$(left)" python3 -m pytest -m gpu tests 2>&1 | tee "$out/gpu_tests.txt" || true
timeout "$(left)" python3 scripts/benchmark.py gpu --out "$out/benchmark.json" 2>&1 | tee "$out/benchmark.txt" || true
for budget in $budgets; do # one search: each budget goes on where the one before it stopped
    timeout "$(left)" python3 -m relinearize run experiment=paper/snl_cifar10_resnet18 budget=default "budget.relus=$budget" \
        "dataset.root=$images" "output=$out/work" trainer.progress=lines "${overrides[@]}" 2>&1 | tee -a "$out/runs.txt" || break
done
for run in "$out"/work/runs/*/; do
    [ -f "$run/record.json" ] || continue
    mkdir -p "$out/runs/$(basename "$run")"
    cp "$run"/{record.json,config.yaml,mask.safetensors} "$out/runs/$(basename "$run")"
done
[ -d "$out/runs" ] && python3 -m relinearize report "$out/runs"

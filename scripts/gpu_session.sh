#!/usr/bin/env bash
# What to do with a CUDA machine that is there for a limited time: tests, benchmark, then SNL, SENet and RLNet with the
# papers' recipes on CIFAR-10, ordered so that a cut at any moment leaves a usable curve, then the robust evaluation of
# all of them. Run again with the same folder, it goes on.
#
#   scripts/gpu_session.sh IMAGES OUT MINUTES [NAME=VALUE ...] [OVERRIDES ...]
#
# IMAGES holds cifar-10-batches-py/; records, masks, report and logs go to OUT. NAME=VALUE:
#   BUDGETS="150k 50k"      of SNL, largest first; "" leaves SNL out
#   SENET_BUDGETS="50k"     of SENet, in any order; "" leaves SENet out
#   RLNET_BUDGETS="82k"     of RLNet, in any order; "" leaves RLNet out
#   ROBUST="evaluation.n_attack=1000"   options of the robust evaluations; ROBUST=no leaves them out
#   SENET_TEACHER=snl       SENet on SNL's network and teacher (no stem ReLU) instead of its own: a teacher less to
#                           train and one all-ReLU network under both curves, but not the paper's; give another OUT
#   CHECKS=no               no tests and no benchmark first
# Copies of CIFAR-10 that went through JPEG: dataset.verify=false 'dataset.title="CIFAR-10 (JPEG)"' as OVERRIDES. A dry
# run on a CPU:
#   scripts/gpu_session.sh unused /tmp/dry 5 dataset=digits backbone=resnet8 BUDGETS="2000 1000" \
#       SENET_BUDGETS="2000 1000" RLNET_BUDGETS="1000" ROBUST="evaluation.n_attack=16 evaluation.n_autoattack=2 \
#       evaluation.n_corruptions=20 evaluation.n_checks=8" method.{teacher,search,finetune}.epochs=1 sensitivity.epochs=1
set -euo pipefail
images=${1:?usage: gpu_session.sh IMAGES OUT MINUTES [NAME=VALUE ...] [OVERRIDES ...]} out=$2 minutes=$3
shift 3
budgets="150k 100k 50k 25k 15k" senet_budgets="150k 25k 82k 50k" rlnet_budgets="82k 50k 120k"
robust="" senet_teacher=own checks=yes overrides=()
for argument in "$@"; do
    case $argument in
    BUDGETS=*) budgets=${argument#*=} ;;
    SENET_BUDGETS=*) senet_budgets=${argument#*=} ;;
    RLNET_BUDGETS=*) rlnet_budgets=${argument#*=} ;;
    ROBUST=*) robust=${argument#*=} ;;
    SENET_TEACHER=*) senet_teacher=${argument#*=} ;;
    CHECKS=*) checks=${argument#*=} ;;
    *) overrides+=("$argument") ;;
    esac
done
case $senet_teacher in
own) senet=() ;;
snl) senet=(method/teacher=classifier backbone.convention=snl) ;;
*) echo "SENET_TEACHER=$senet_teacher is unknown; valid: own, snl" >&2 && exit 1 ;;
esac
end=$((SECONDS + minutes * 60))
left() { echo $((end - SECONDS > 1 ? end - SECONDS : 1)); }
mkdir -p "$out"

run() { # EXPERIMENT BUDGET [OVERRIDES ...]: one run, whose files are collected at once
    timeout "$(left)" python3 -m relinearize run "experiment=paper/$1" budget=default "budget.relus=$2" "budget.grid=[]" \
        "dataset.root=$images" "output=$out/work" trainer.progress=lines "${@:3}" 2>&1 |
        tee -a "$out/runs.txt" || return 1
    collect
}

collect() { # of each finished run and each further network of it (route-adversarial, ...) all but the weights
    local record folder file
    for record in "$out"/work/runs/*/record.json "$out"/work/runs/*/*/record.json; do
        [ -f "$record" ] || continue
        folder=$(dirname "${record#"$out/work/"}")
        mkdir -p "$out/$folder"
        for file in record.json robustness.json config.yaml mask.safetensors; do
            [ ! -f "$out/work/$folder/$file" ] || cp "$out/work/$folder/$file" "$out/$folder"
        done
    done
    python3 -m relinearize report "$out/runs" > "$out/report.txt" || true
}

if [ "$checks" = yes ]; then
    timeout "$(left)" python3 -m pytest -m gpu tests 2>&1 | tee "$out/gpu_tests.txt" || true
    timeout "$(left)" python3 scripts/benchmark.py gpu --out "$out/benchmark.json" 2>&1 |
        tee "$out/benchmark.txt" || true
fi
for budget in $budgets; do # one search: each budget goes on where the one before it stopped
    run snl_cifar10_resnet18 "$budget" "${overrides[@]}" || break
done
for budget in $senet_budgets; do # a search each: the ends of the curve first, then between them
    run senet_cifar10_resnet18 "$budget" "${senet[@]}" "${overrides[@]}" || break
done
for budget in $rlnet_budgets; do # one robust teacher, a search each
    run rlnet_cifar10_resnet18 "$budget" "${overrides[@]}" || break
done
if [ "$robust" != no ]; then
    for folder in "$out"/work/runs/*/; do
        [ -f "$folder/record.json" ] || continue
        # shellcheck disable=SC2086 # options, split on purpose
        timeout "$(left)" python3 -m relinearize evaluate "run=$folder" evaluation=robust \
            "corruptions.cache=$out/work/corrupted" $robust 2>&1 | tee -a "$out/robust.txt" || break
        collect
    done
fi
cat "$out/report.txt" 2> /dev/null || true

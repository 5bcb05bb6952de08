#!/usr/bin/env bash
# Everything that a GPU can tell, within ten minutes: gpu_report.sh [OUT]
# Needs torch, numpy, pytest, hypothesis and pytest-xdist, and the libraries built in place or nvcc to build
# them; the backbones also mmengine, and timm for Swin. Most valuable first; every step has a limit and a log in
# OUT, and a failing one does not end the rest.
OUT=$(mkdir -p "${1:-gpu_report}" && cd "${1:-gpu_report}" && pwd)
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH=$PWD:$PWD/tests/helpers:$PWD/tests/gpu${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-575}

step() { # name, seconds at most, command
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    [ $((began + seconds)) -gt "$LIMIT" ] && seconds=$((LIMIT - began))
    [ "$seconds" -lt 15 ] && { echo "$name: no time left" | tee -a "$OUT/steps.txt"; return; }
    timeout -k 5 "$seconds" "$@" >"$OUT/$name.log" 2>&1
    echo "$name: exit code $?, $((SECONDS - began)) s" | tee -a "$OUT/steps.txt"
}

{ date; nvidia-smi; $PYTHON -c 'import torch; print("torch", torch.__version__)'; } >"$OUT/steps.txt" 2>&1
$PYTHON -c 'from natten_ops import dispatch; assert not dispatch.CUDA_PROBLEM' 2>/dev/null ||
    step build 200 $PYTHON setup.py -q build_ext --inplace
step check 60 $PYTHON -m benchmarks.gpu_times check
step times 100 $PYTHON -m benchmarks.gpu_times natten_ops --out "$OUT/times.jsonl"
step tests 170 $PYTHON -m pytest -m gpu -n 6 -p no:cacheprovider --deselect tests/gpu/test_gpu_sanitizer.py
step counters 60 ncu --clock-control none -k 'regex:_(forward|query|key)_kernel' -c 3 --section SpeedOfLight --section Occupancy \
    --section SchedulerStats --section WarpStateStats --section InstructionStats --section MemoryWorkloadAnalysis \
    $PYTHON -m benchmarks.gpu_times once
step peers 130 $PYTHON -m benchmarks.gpu_times swin-sdpa flex_attention --out "$OUT/peers.jsonl"
step sanitizer 90 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
    $PYTHON tests/gpu/sanitized.py
if $PYTHON -c 'import mmengine' 2>/dev/null; then
    step models 90 $PYTHON -m benchmarks.gpu_models --out "$OUT/models.jsonl"
else
    echo 'models: left out, mmengine is not installed' | tee -a "$OUT/steps.txt"
fi
grep -hE 'passed|failed|FAILED' "$OUT/tests.log" | cut -c 1-200

#!/usr/bin/env bash
# Train through Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of mmnat train]
set -e

USAGE="usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of mmnat train]"
PARTITION=${1:?$USAGE}
JOB_NAME=${2:?$USAGE}
CONFIG=${3:?$USAGE}
WORK_DIR=${4:?$USAGE}
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
# Later options win: SRUN_ARGS="--gres=none" runs the GPUS processes on CPUs.
SRUN_ARGS=${SRUN_ARGS:-""}
TOOLS=$(dirname "$0")
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

# SRUN_ARGS holds several words.
# shellcheck disable=SC2086
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres=gpu:"$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    $SRUN_ARGS \
    python -u -m mmnat train "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "${@:5}"

#!/usr/bin/env bash
# Train on several processes: dist_train.sh CONFIG GPUS [options of mmnat train]
set -e

USAGE="usage: dist_train.sh CONFIG GPUS [options of mmnat train]"
CONFIG=${1:?$USAGE}
GPUS=${2:?$USAGE}
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
MASTER_ADDR=${MASTER_ADDR:-"127.0.0.1"}
TOOLS=$(dirname "$0")
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

# The first node listens.
[ "$NODE_RANK" != 0 ] || python -m mmnat.launch.port "$PORT"
exec torchrun \
    --nnodes="$NNODES" \
    --node-rank="$NODE_RANK" \
    --master-addr="$MASTER_ADDR" \
    --master-port="$PORT" \
    --nproc-per-node="$GPUS" \
    -m mmnat train "$CONFIG" --launcher pytorch "${@:3}"

#!/usr/bin/env bash
# Test on several processes: dist_test.sh CONFIG CHECKPOINT GPUS [options of mmnat test]
set -e

USAGE="usage: dist_test.sh CONFIG CHECKPOINT GPUS [options of mmnat test]"
CONFIG=${1:?$USAGE}
CHECKPOINT=${2:?$USAGE}
GPUS=${3:?$USAGE}
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
    -m mmnat test "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"

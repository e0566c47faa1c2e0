#!/usr/bin/env bash
# Test a checkpoint on the GPUs of this machine, or as one of several machines.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
#   GPUS=8 tools/dist_test.sh CONFIG CHECKPOINT [arguments of tools/test.py]
#
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

usage="usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]"
config=${1:?"$usage"}
checkpoint=${2:?"$usage"}
shift 2
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    GPUS=$1
    shift
fi
: "${GPUS:?"how many GPUs? $0 CONFIG CHECKPOINT GPUS"}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$root/tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"

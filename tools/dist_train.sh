#!/usr/bin/env bash
# Train on the GPUs of this machine, or as one of several machines.
#
#   tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#   GPUS=8 tools/dist_train.sh CONFIG [arguments of tools/train.py]
#
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

config=${1:?"usage: $0 CONFIG GPUS [arguments of tools/train.py]"}
shift
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    GPUS=$1
    shift
fi
: "${GPUS:?"how many GPUs? $0 CONFIG GPUS"}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$root/tools/train.py" "$config" --launcher pytorch "$@"

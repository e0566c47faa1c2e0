#!/usr/bin/env bash
# Test a checkpoint on a Slurm cluster.
#
#   GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
#
# From the environment: GPUS (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5), SRUN_ARGS.
set -euo pipefail

usage="usage: GPUS=8 $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]"
partition=${1:?"$usage"}
job_name=${2:?"$usage"}
config=${3:?"$usage"}
checkpoint=${4:?"$usage"}
shift 4

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2086  # SRUN_ARGS holds several arguments
exec srun -p "$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$root/tools/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"

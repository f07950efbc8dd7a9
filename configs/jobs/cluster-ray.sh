#!/bin/bash
# Runs a verb as a job on a Ray cluster; its process, with the teacher, is placed where a GPU is free.
#   RAY_ADDRESS=http://HEAD:8265 configs/jobs/cluster-ray.sh train configs/cluster-ray.yaml [section.key=value ...]
# A job that was stopped goes on with the same command. The working directory and its .venv are on storage that all nodes
# see: nothing is uploaded. TEACHER_GPUS=0 for a cluster without GPUs.
set -euo pipefail
: "${RAY_ADDRESS:?set it to the dashboard of the cluster, e.g. http://HEAD:8265}"
here=$PWD
exec "$here/.venv/bin/ray" job submit --address "$RAY_ADDRESS" --entrypoint-num-gpus "${TEACHER_GPUS:-1}" -- \
    bash -c 'cd "$0" && exec .venv/bin/notewright "$@"' "$here" "$@"

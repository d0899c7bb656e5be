#!/bin/sh
# captions.sh PICTURES OUT SHARDS GPU...
# One shard at a time on each GPU, named as `instructblip devices` lists them. Start it again after whatever happened.
set -eu
pictures=$1 out=$2 shards=$3
shift 3
mkdir -p "$out"
# {%} is the number of the job slot: the slot's GPU is the argument of that number. Codes 1 to 3 are not tried again.
export pictures out shards
seq 0 $((shards - 1)) | parallel --jobs $# --retries 1 --joblog "$out/jobs.log" '
    set -- '"$(printf "'%s' " "$@")"'
    shift $(({%} - 1))
    for try in 1 2 3; do
        code=0
        WGPU_ADAPTER_NAME=$1 instructblip batch "$pictures" -o "$out" --shard {}/$shards --quiet || code=$?
        case $code in 0 | 1) exit 0 ;; 2 | 3 | 4 | 5 | 7) exit $code ;; esac
    done
    exit $code
'
instructblip batch merge "$pictures" --from "$out" -o "$out/captions.jsonl"

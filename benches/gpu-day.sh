#!/bin/sh
# All there is to know about a GPU in ten minutes, from the program alone: no cargo, no model files, no network.
# What is worth most comes first; what there is no time for is left out and told.
#
#     benches/gpu-day.sh [path/to/instructblip] [OUT_DIR]
#
# Writes one folder named by the adapter, with a summary.md to begin with. A step that fails or takes too long is told at
# the end, and the others run all the same. Beside the folder lies all of it as NAME.tgz. INSTRUCTBLIP_ADAPTER chooses the
# GPU, BUDGET is the seconds for everything (600 if it is not set), OLD the path of an earlier version's program, which runs
# the first kernels and Vicuna-7B in f16 again, TESTS the path of the program that `cargo test --test library --no-run`
# builds, which compares every stage with recordings of transformers, and QUICK=1 tries the script out. What was expected of
# some cards stands in predictions.csv and comes beside what they did.
set -u

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-instructblip}
parent=${2:-gpu-day}
quick=${QUICK:-}
budget=${BUDGET:-600}

if ! "$program" --version >/dev/null 2>&1; then
    echo "$0: $program does not run; give the path of the program: $0 path/to/instructblip [OUT_DIR]" >&2
    exit 2
fi

case $budget in
    '' | 0* | *[!0-9]* | ??????*)
        echo "$0: BUDGET is a number of seconds from 1 to 99999, not $budget" >&2
        exit 2
        ;;
esac

for other in ${OLD:+"$OLD"} ${TESTS:+"$TESTS"}; do
    if ! command -v "$other" >/dev/null; then
        echo "$0: there is no program $other" >&2
        exit 2
    fi
done

# The adapter that would be used, as part of a file name.
adapter=$("$program" devices --json 2>/dev/null | awk '{
    count = split($0, all, /\},\{/)
    for (i = 1; i <= count; i++)
        if (all[i] ~ /"chosen":true/ && match(all[i], /"name":"[^"]*"/)) print substr(all[i], RSTART + 8, RLENGTH - 9)
}')
name=$(printf '%s' "${adapter:-no adapter}" | tr -cs 'A-Za-z0-9' '-' | cut -c 1-60)
name=${name%-}
out=$parent/$name
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
work=$(mktemp -d) || exit 2
files=$work/no-files
job=
trap 'rm -rf "$work" "$files"' EXIT
# What runs in the background hears nothing of Ctrl-C by itself. What was measured by then is kept.
trap 'if [ -n "$job" ]; then kill "$job"; wait "$job"; fi; conclude; exit 130' HUP INT TERM
# Not the user's own: what is found here is for the results, and what was found before is not.
INSTRUCTBLIP_CACHE=${INSTRUCTBLIP_CACHE:-$work/cache}
export INSTRUCTBLIP_CACHE
# Of an earlier run: what is skipped in this one must not seem to be of it.
rm -f "$out.tgz" "$out/summary.md" "$out/runs.csv" "$out/steps.md" "$out"/*.log "$out"/*.json "$out"/*.txt
rm -rf "$out/kernels" "$out"/kernels-* "$out"/model-*
failed=
skipped=
begun=$(date +%s)

# Seconds of the budget that nobody has used.
left() {
    rest=$((begun + budget - $(date +%s)))
    echo $((rest > 0 ? rest : 0))
}

# limited SECONDS COMMAND...: 124 when it takes longer.
limited() {
    end=$(($(date +%s) + $1))
    shift
    "$@" &
    job=$!
    late=
    # Not every sleep knows parts of a second.
    while kill -0 "$job" 2>/dev/null; do
        case $late in
            '') [ "$(date +%s)" -lt "$end" ] || { late=1 && kill "$job" && end=$((end + 5)); } ;;
            1) [ "$(date +%s)" -lt "$end" ] || { late=2 && kill -9 "$job"; } ;;
        esac 2>/dev/null
        sleep 0.1 2>/dev/null || sleep 1
    done
    wait "$job" 2>/dev/null
    code=$?
    job=
    [ -z "$late" ] || code=124
    return "$code"
}

# note_failure WORDS: a line of what is told at the end.
note_failure() {
    failed="$failed
- $1"
}

# step NAME SECONDS FILE COMMAND...: what it prints goes to FILE, what it says beside it to NAME.log. It gets no more
# seconds than are left, and does not begin when none are.
step() {
    title=$1
    limit=$2
    file=$3
    shift 3
    printf '%-24s ' "$title" >&2
    rest=$(left)
    if [ "$rest" -eq 0 ]; then
        echo "skipped" >&2
        echo "| $title | skipped: the $budget s are spent | 0 | |" >>"$out/steps.md"
        skipped="$skipped $title"
        return
    fi
    [ "$limit" -le "$rest" ] || limit=$rest
    start=$(date +%s)
    limited "$limit" "$@" >"$out/$file" 2>"$out/$title.log"
    code=$?
    took=$(($(date +%s) - start))
    case $code in
        0) verdict=ok ;;
        124) verdict="took longer than $limit s" ;;
        *) verdict="exit code $code" ;;
    esac
    [ -s "$out/$title.log" ] || rm -f "$out/$title.log"
    echo "$verdict, $took s" >&2
    echo "| $title | $verdict | $took | [$file]($file) |" >>"$out/steps.md"
    if [ "$code" -ne 0 ]; then
        note_failure "$title: $verdict: $(tail -n 1 "$out/$title.log" 2>/dev/null)"
    fi
}

# model NAME SECONDS PROGRAM ARGUMENTS...: a model stage by stage.
model() {
    of=$1
    limit=$2
    runs=$3
    shift 3
    code=0
    step "model-$of" "$limit" "model-$of.txt" "$runs" bench model "$@" --output "$out/model-$of" \
        --append "$out/runs.csv"
    # Where kernels for this kind of GPU are wrong, or do not compile, those for every GPU still tell something.
    case $code in
        0 | 124) ;;
        *)
            step "model-$of-portable" "$limit" "model-$of-portable.txt" "$runs" bench model "$@" --portable \
                --output "$out/model-$of-portable" --append "$out/runs.csv"
            ;;
    esac
}

# kernels NAME SECONDS PROGRAM ARGUMENTS...: some kernels.
kernels() {
    of=$1
    limit=$2
    runs=$3
    shift 3
    step "$of" "$limit" "$of.txt" "$runs" bench kernels "$@" --output "$out/$of" --append "$out/runs.csv"
    # What was measured until the time was up.
    [ ! -f "$out/$of/unfinished.json" ] || "$program" bench report "$out/$of" --output "$out/$of" >"$out/$of.txt"
}

# predicted CARD: a table of what was expected of it and what was measured, if anything was expected.
predicted() {
    awk -v card="$1" -v out="$out" '
        # The cells of a line, of which some may be in quotes.
        function cells(line, into,    count, cell) {
            split("", into)
            for (count = 0; line != "" || count == 0; ) {
                if (match(line, /^"[^"]*"/)) cell = substr(line, 2, RLENGTH - 2)
                else match(line, /^[^,]*/) && cell = substr(line, 1, RLENGTH)
                into[++count] = cell
                line = substr(line, RLENGTH + 2)
            }
            return count
        }
        function number(file, row, column,    path, line, head, values, wanted, parts, pair, i, j, n, fits, found) {
            path = out "/" file
            found = "not measured"
            if (file ~ /json$/) {
                while ((getline line < path) > 0)
                    if (match(line, "\"" column "\": *[0-9.]+")) {
                        found = substr(line, RSTART, RLENGTH)
                        sub(/.*: */, "", found)
                    }
                close(path)
                return found
            }
            if ((getline line < path) > 0) n = cells(line, head)
            wanted = split(row, parts, ";")
            while ((getline line < path) > 0) {
                cells(line, values)
                fits = 0
                for (i = 1; i <= wanted; i++) {
                    split(parts[i], pair, "=")
                    for (j = 1; j <= n; j++) if (head[j] == pair[1] && values[j] == pair[2]) fits++
                }
                if (fits == wanted) for (j = 1; j <= n; j++) if (head[j] == column) found = values[j]
            }
            close(path)
            return found
        }
        NR > 1 {
            cells($0, cell)
            if (!index(tolower(card), tolower(cell[1]))) next
            if (!told++) {
                print "\n## Predictions\n\n| | predicted | measured | |\n| --- | --- | --- | --- |"
            }
            found = number(cell[3], cell[4], cell[5])
            if (found ~ /^[0-9]/) found = sprintf("%.4g", found)
            print "| " cell[2] " | " cell[6] " to " cell[7] " | " found " | " cell[8] " |"
        }' "$here/predictions.csv"
}

serving="--seconds 12"
[ -z "$quick" ] || serving="--seconds 1 --clients 2 --new-tokens 2"
picture=$here/../tests/shapes/samples/11.png
question="Which is the smallest shape?"
# A layer of the vision tower, a step of decoding, a prompt and a large one, in every format and form.
shapes="--shape 257x1408x1408 --shape 1x4096x4096 --shape 64x4096x4096 --shape 512x4096x14336"
[ -z "$quick" ] || shapes="--shape 64x64x64 --runs 2"
few="--prompt-tokens 64,512"
layers=
[ -z "$quick" ] || layers="--layers 1 --vision-layers 1 --qformer-layers 1"
[ -z "$quick" ] || few="$layers --runs 1 --rows 1 --keys 32 --prompt-tokens 64"

peer=$here/peers/transformers_speed.py
has_peer() {
    [ -f "$peer" ] && limited "$(left)" python3 -c 'import torch, transformers; assert torch.cuda.is_available()' 2>/dev/null
}

# transformers SHAPE: the same shape by PyTorch, where there is one for this GPU.
transformers() {
    if [ "$(left)" -gt 0 ] && has_peer; then
        step "transformers-$1" 120 "transformers-$1.json" python3 "$peer" --shape "$1"
    fi
}

# free_kib FOLDER: the KiB that are free there; 0 where it is no folder.
free_kib() {
    df -Pk "$1" 2>/dev/null | awk 'NR == 2 { kib = $4 } END { print kib + 0 }'
}

# asked NAME PROGRAM ARGUMENTS...: a question about a bundled picture, where the script lies beside them.
asked() {
    of=$1
    shift
    if [ ! -f "$picture" ]; then
        skipped="$skipped $of(no picture beside the script)"
        return
    fi
    step "$of" 60 "$of.json" "$@" --max-new-tokens 32 --json
}

# What a user waits for at the very first question, and at the first one of a later start.
first_token() {
    for pipelines in cold warm; do
        asked "first-token-$pipelines" env INSTRUCTBLIP_CACHE="$work/cold" __GL_SHADER_DISK_CACHE=0 \
            MESA_SHADER_CACHE_DISABLE=true "$program" ask "$picture" "$question"
    done
}

# A 7B model from files in the host's memory, or on the disk where that has no room, and the server with it.
of_files() {
    need=$((17 * 1024 * 1024))
    [ -z "$quick" ] || need=$((1024 * 1024))
    folder=/dev/shm
    [ "$(free_kib "$folder")" -gt "$need" ] || folder=$parent
    if [ "$(free_kib "$folder")" -le "$need" ]; then
        skipped="$skipped files-of-7b(no room)"
        return
    fi
    files=$(mktemp -d "$folder/instructblip-7b.XXXXXX") || return
    # shellcheck disable=SC2086 # several words
    step synthesize 60 synthesize.txt "$program" synthesize instructblip-vicuna-7b "$files/7b" $layers
    asked load "$program" ask "$picture" "$question" --model "$files/7b"
    # shellcheck disable=SC2086 # several words
    step serve-7b 60 serve-7b.json "$program" bench serve $serving --json -- --model "$files/7b"
    # shellcheck disable=SC2086 # several words
    step serve-7b-logprobs 60 serve-7b-logprobs.json "$program" bench serve $serving --logprobs 5 --json \
        -- --model "$files/7b"
    rm -rf "$files"
}

# The summary, and all of it as one file.
conclude() {
    {
        echo "# ${adapter:-No adapter}"
        echo
        echo "$("$program" --version), $(date -u +%Y-%m-%d), $(uname -sm), $(($(date +%s) - begun)) s in all${quick:+, QUICK}."
        echo
        echo "| step | | s | output |"
        echo "| --- | --- | --- | --- |"
        cat "$out/steps.md" 2>/dev/null
        [ ! -f "$here/predictions.csv" ] || predicted "$adapter"
        for results in "$out"/kernels-* "$out"/kernels "$out"/model-*; do
            [ -f "$results/results.md" ] || continue
            folder=$(basename "$results")
            printf '\n## %s\n\nPictures: [report.html](%s/report.html)\n\n' "$folder" "$folder"
            # Its headings are two levels below this one's.
            sed 's/^#/###/' "$results/results.md"
        done
        for results in "$out"/transformers-*.json; do
            [ -s "$results" ] || continue
            # shellcheck disable=SC2016 # a fence of code, no command
            printf '\n## %s\n\n```json\n%s\n```\n' "$(basename "$results" .json)" "$(cat "$results")"
        done
        if [ -n "$skipped" ]; then
            printf '\n## Skipped\n\nFor want of time, where nothing else is said:%s. BUDGET=SECONDS gives more than %s.\n' \
                "$skipped" "$budget"
        fi
        if [ -n "$failed" ]; then
            printf '\n## Failed\n%s\n' "$failed"
        fi
    } >"$out/summary.md"
    rm -f "$out/steps.md"
    tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")" || note_failure "the archive could not be written"
    echo "$out/summary.md, $out.tgz" >&2
    [ -z "$skipped" ] || echo "skipped, for want of time where nothing else is said:$skipped" >&2
}

step devices 60 devices.json "$program" devices --json
step selftest 180 selftest.json "$program" selftest --json ${quick:+--filter norm}
step tune 90 tune.json "$program" tune --json
# shellcheck disable=SC2086 # several words
kernels kernels-first 60 "$program" $shapes
# shellcheck disable=SC2086 # several words
[ -z "${OLD:-}" ] || kernels kernels-old 60 "$OLD" $shapes
# shellcheck disable=SC2086 # several words
model vicuna-7b-f16 150 "$program" --shape vicuna-7b --weights f16 $few
# shellcheck disable=SC2086 # several words
[ -z "${OLD:-}" ] || model vicuna-7b-f16-old 90 "$OLD" --shape vicuna-7b --weights f16 $few
step selftest-bare 60 selftest-bare.json "$program" selftest --robust-access false --json ${quick:+--filter norm}
for robust in true false; do
    # shellcheck disable=SC2086 # several words
    kernels "kernels-robust-$robust" 30 "$program" $shapes --variant auto --isa --robust-access "$robust"
done
# shellcheck disable=SC2086 # several words
model vicuna-7b-q4 90 "$program" --shape vicuna-7b --weights q4 $few
transformers vicuna-7b
# Every stage beside recordings of transformers, and the embedded model's recorded answers.
[ -z "${TESTS:-}" ] || step stages 120 stages.txt "$TESTS" ${quick:+--skip generate::} stages:: generate:: logprobs::
model embedded 60 "$program" --shape embedded ${quick:+--runs 1 --rows 1 --keys 32 --prompt-tokens 64}
first_token
# shellcheck disable=SC2086 # several words
step serve 60 serve.json "$program" bench serve $serving --json
of_files
# shellcheck disable=SC2086 # several words
model vicuna-7b-q8 90 "$program" --shape vicuna-7b --weights q8 $few
step doctor 60 doctor.json "$program" doctor --json
[ -n "$quick" ] || model flan-t5-xl 90 "$program" --shape flan-t5-xl
transformers flan-t5-xl
step selftest-checked 90 selftest-checked.json "$program" selftest --checked --json ${quick:+--filter norm}
kernels kernels 180 "$program" ${quick:+--filter norm --runs 2}

conclude
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi

#!/bin/sh
# clients.sh BINARY [FOLDER]
# OpenAI's clients for Python and Node, and curl, against `BINARY serve` with the embedded model. The packages go into
# FOLDER (target/clients) and stay there. Ends with 0 if all is well, 1 if not, and 2 if a program is missing.
set -eu
python_client=openai==3.57.0
node_client=openai@6.49.0

here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
folder=${2:-$here/../../target/clients}
for program in python3 node npm curl; do
    command -v "$program" >/dev/null || { echo "clients.sh: needs $program, which is not installed" >&2; exit 2; }
done
[ -x "$1" ] || { echo "clients.sh: $1 is no program; build it with cargo build" >&2; exit 2; }
binary=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# A folder that has these versions is left as it is.
if [ "$(cat "$folder/versions" 2>/dev/null)" != "$python_client $node_client" ]; then
    rm -rf "$folder/python" "$folder/node" "$folder/versions"
    python3 -m venv "$folder/python" || { echo "clients.sh: needs Python's venv (Debian: python3-venv)" >&2; exit 2; }
    "$folder/python/bin/pip" install --quiet --disable-pip-version-check "$python_client"
    mkdir "$folder/node"
    npm install --prefix "$folder/node" --no-audit --no-fund --loglevel=error "$node_client" >/dev/null
    echo "$python_client $node_client" >"$folder/versions"
fi

export no_proxy=127.0.0.1
running=
trap '[ -z "$running" ] || kill $running 2>/dev/null || true' EXIT

# start NAME OPTIONS...: a server on a free port; `url` is its address, `pid` its process. A key is in the environment.
start() {
    log=$folder/$1.log
    shift
    "$binary" serve --port 0 "$@" 2>"$log" &
    pid=$!
    running="$running $pid"
    url=
    tries=0
    until [ -n "$url" ] && curl -sf -o "$folder/health" "$url/health"; do
        tries=$((tries + 1))
        if [ $tries -gt 600 ] || ! kill -0 $pid 2>/dev/null; then
            echo "clients.sh: the server did not become ready" >&2
            cat "$log" >&2
            exit 1
        fi
        sleep 0.2
        url=$(sed -n 's/^listening at //p' "$log")
    done
}

# Answers that are long enough to leave them.
unset INSTRUCTBLIP_API_KEY
start open --max-new-tokens 480
open_url=$url/v1 open_pid=$pid
export INSTRUCTBLIP_API_KEY=sesame
start keyed --slots 1 --queue 1
keyed_url=$url/v1 keyed_pid=$pid
unset INSTRUCTBLIP_API_KEY

failed=0
echo "Python, $python_client"
"$folder/python/bin/python" "$here/client.py" "$open_url" "$keyed_url" || failed=1
echo "Node, $node_client"
(cd "$folder/node" && node "$here/client.mjs" "$open_url" "$keyed_url") || failed=1
echo curl
sh "$here/client.sh" "$open_url" "$keyed_url" || failed=1

for pid in $open_pid $keyed_pid; do
    code=0
    kill -TERM "$pid"
    wait "$pid" || code=$?
    [ $code = 0 ] || { echo "FAILED: SIGTERM ended a server with $code, not 0"; failed=1; }
done
running=
if grep -n 'panicked\|mistake in' "$folder/open.log" "$folder/keyed.log"; then
    failed=1
fi
[ $failed = 0 ] && echo "all is well" || echo "something failed; the servers' logs are in $folder"
exit $failed

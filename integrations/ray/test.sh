#!/bin/sh
# Tests the driver in an environment of its own (600 MB under target/ray, made the first time).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${RAY_ENVIRONMENT:-$root/target/ray}
if [ ! -x "$environment/bin/python" ]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet "ray[data]"
fi
# Ray's secret for a cluster of this machine alone, which it would keep in the home folder.
export RAY_AUTH_TOKEN_PATH="$environment/token" RAY_USAGE_STATS_ENABLED=0
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
exec "$environment/bin/python" "$root/integrations/ray/test.py" "$1"

#!/bin/bash
# The page of `instructblip serve` in a headless Chromium, with real keys, clicks, drops and pastes, against the server with
# the embedded model. Pictures of the page go to a folder.
#
#   tests/serve/page.sh [PROGRAM] [FOLDER FOR PLAYWRIGHT AND PICTURES]
#
# Without arguments the program is target/release/instructblip, and the folder target/page. Ends with 2 where something that
# it needs is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/release/instructblip}
folder=${2:-target/page}

missing=
for tool in node npm curl base64 chromium; do
    command -v "$tool" > /dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "missing:$missing; on Debian: apt-get install nodejs npm curl chromium" >&2
    exit 2
fi
[ -x "$program" ] || { echo "missing: $program; build it first, with cargo build --release" >&2; exit 2; }
mkdir -p "$folder"
if [ ! -d "$folder/node_modules/playwright-core" ]; then
    npm install --silent --no-audit --no-fund --prefix "$folder" playwright-core@1 \
        || { echo "missing: playwright-core, which npm could not install into $folder" >&2; exit 2; }
fi
CHROMIUM=$(command -v chromium) exec node tests/serve/page.test.mjs "$program" "$folder"

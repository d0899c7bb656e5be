#!/bin/sh
# client.sh URL KEYED
# What is seen with curl: the bytes of answers, and requests that no client of OpenAI's would make. URL and KEYED are as
# client.py has them.
set -eu
url=$1 keyed=$2
root=${url%/v1}
samples=$(cd "$(dirname "$0")/../shapes/samples" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# As a shell writes it: base64 in lines, which JSON has no room for, so their ends go.
picture=$(base64 <"$samples/10.png" | tr -d '\n')
cat >"$folder/ask.json" <<END
{"messages": [{"role": "user", "content": [
    {"type": "text", "text": "Which object is the biggest one?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,$picture"}}]}]}
END
sed 's/^{/{"stream": true, /' "$folder/ask.json" >"$folder/stream.json"

# check NAME STATUS PATTERN CURL'S WORDS...: the status, and a pattern that the head or the body has.
check() {
    name=$1 status=$2 pattern=$3
    shift 3
    got=$(curl -sS --max-time 60 -D "$folder/head" -o "$folder/body" -w '%{http_code}' "$@") || got="curl $?"
    if [ "$got" = "$status" ] && cat "$folder/head" "$folder/body" | tr -d '\r' | grep -Eqi -- "$pattern"; then
        echo "ok     $name"
    else
        echo "FAILED $name: $got, not $status with $pattern"
        cat "$folder/head" "$folder/body"
        failed=1
    fi
}

json='Content-Type: application/json'
chat=$url/chat/completions
check plain 200 '"content":"blue cross"' "$chat" -H "$json" -d @"$folder/ask.json"
check 'without a content type' 200 '"content":"blue cross"' "$chat" -d @"$folder/ask.json"
check chunked 200 '"content":"blue cross"' "$chat" -H 'Transfer-Encoding: chunked' -d @"$folder/ask.json"
check 'expecting 100' 200 '"content":"blue cross"' "$chat" -H 'Expect: 100-continue' -d @"$folder/ask.json"
check 'an answer as events' 200 '^content-type: text/event-stream; charset=utf-8$' -N "$chat" -d @"$folder/stream.json"
check 'the end of events' 200 '^data: \[DONE\]$' -N "$chat" -d @"$folder/stream.json"
if grep -Evq '^(data: .*)?$' "$folder/body"; then
    echo "FAILED lines of events that are neither data nor empty"
    failed=1
fi
check page 200 '^content-type: text/html' "$root/"
check health 200 '"status":"ok"' "$root/health"
check 'health of the server with a key' 200 '"status":"ok"' "${keyed%/v1}/health"
check metrics 200 '^# EOF$' "$root/metrics"
check 'metrics without the key' 401 '"code":"invalid_api_key"' "${keyed%/v1}/metrics"
check 'the key' 200 '"id":"instructblip-shapes"' "$keyed/models" -H 'Authorization: Bearer sesame'
check 'how to send the key' 401 '^www-authenticate: Bearer$' "$keyed/models"
check 'no JSON' 400 '"code":"invalid_json"' "$chat" -d '{"messages":'
check 'an empty body' 400 '"code":"invalid_json"' "$chat" -X POST
check 'a compressed body' 415 '"code":"unsupported_encoding"' "$chat" -H 'Content-Encoding: gzip' -d x
check 'a large body' 413 '"code":"request_too_large"' "$chat" -H 'Content-Length: 99999999999' -H 'Expect:' -d x
check 'another method' 405 '^allow: POST$' "$chat"
check 'another address' 404 '"code":"unknown_url"' "$url/completions" -d '{}'
check 'the name of another site' 403 '"code":"host_not_allowed"' "$root/health" -H 'Host: evil.example'
check 'the page of another site' 403 '"code":"origin_not_allowed"' "$root/health" -H 'Origin: https://evil.example'
check HEAD 200 '^content-type: application/json$' -I "$root/health"
exit $failed

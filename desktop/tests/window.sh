#!/bin/bash
# The app in a real window under Xvfb, with real clicks and keys: captions, edits, questions, attention, a kill in the middle
# of a job, and pictures of the window in light and dark, at 100 % and 200 %. Files that it writes are checked.
#
#   desktop/tests/window.sh [PROGRAM] [FOLDER FOR PICTURES OF THE WINDOW]
#
# Without arguments the program is target/release/instructblip-desktop, and pictures go to target/window.
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/release/instructblip-desktop}
out=${2:-target/window}

missing=
for tool in Xvfb xdotool import; do
    command -v "$tool" > /dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "missing:$missing; on Debian: apt-get install xvfb xdotool imagemagick libxkbcommon-x11-0" >&2
    exit 2
fi
[ -x "$program" ] || { echo "$program: build it first, with cargo build --release -p instructblip-desktop" >&2; exit 2; }

# The fastest answers that a software driver gives leave no time to stop in; many pictures do.
work=$(mktemp -d)
mkdir -p "$out" "$work/twenty" "$work/many" "$work/config"
for i in $(seq -w 0 19); do
    cp "tests/shapes/samples/$(printf '%02d' $((10#$i % 12))).png" "$work/twenty/$i.png"
done
for i in $(seq -w 0 159); do
    cp "tests/shapes/samples/$(printf '%02d' $((10#$i % 12))).png" "$work/many/$i.png"
done

number=77
while [ -e "/tmp/.X11-unix/X$number" ]; do number=$((number + 1)); done
export DISPLAY=:$number XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$work}"
unset WAYLAND_DISPLAY
Xvfb "$DISPLAY" -screen 0 1280x860x24 -nolisten tcp > "$work/xvfb.log" 2>&1 &
server=$!
app=
finish() {
    [ -z "$app" ] || kill -9 "$app" 2> /dev/null || true
    kill "$server" 2> /dev/null || true
    rm -rf "$work"
}
trap finish EXIT
until [ -e "/tmp/.X11-unix/X$number" ]; do sleep 0.1; done

fail() {
    import -window root "$out/failed.png" || true
    echo "FAILED: $* (see $out/failed.png; $(tail -n 3 "$work/app.log" | tr '\n' ' '))" >&2
    exit 1
}
# Waits until a command succeeds, at most so many seconds.
await() {
    local limit=$1 what=$2
    shift 2
    local end=$((SECONDS + limit))
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "$what, after $limit s"
        sleep 0.2
    done
}
settings() { printf '{"look": "%s", "zoom": %s}\n' "$1" "$2" > "$work/config/desktop.json"; }
start() {
    local begun end=$((SECONDS + 60))
    begun=$(date +%s%N)
    "$program" --config "$work/config" --frame-log "$work/frames" "$@" > "$work/app.log" 2>&1 &
    app=$!
    # Not by --sync, which looks twice a second only.
    until window=$(xdotool search --onlyvisible --name InstructBLIP 2> /dev/null | head -n 1) && [ -n "$window" ]; do
        [ $SECONDS -lt $end ] || fail "no window came"
        sleep 0.02
    done
    echo "window after $((($(date +%s%N) - begun) / 1000000)) ms"
    xdotool windowmove "$window" 0 0 windowsize "$window" 1280 860 windowfocus "$window"
    sleep 1
}
quit() {
    xdotool key ctrl+q
    await 20 "the program did not end" not_running
    app=
    tail -n 1 "$work/frames"
}
not_running() { ! kill -0 "$app" 2> /dev/null; }
click() { xdotool mousemove "$1" "$2" sleep 0.1 click 1 sleep 0.3; }
type_in() { xdotool key ctrl+a sleep 0.1 type --delay 8 -- "$1"; sleep 0.3; }
shot() { sleep 1; import -window root "$out/$1.png"; echo "  $out/$1.png"; }
captions() { find "$work/$1" -name '*.txt' | wc -l; }
# Nothing is captioned before the model is there.
caption_all() {
    local count
    count=$(captions "$1")
    for _ in $(seq 60); do
        xdotool key ctrl+shift+Return
        sleep 2
        [ "$(captions "$1")" -le "$count" ] || return 0
    done
    fail "no caption came"
}
has_captions() { [ "$(captions "$1")" -ge "$2" ]; }

# Puts the pointer where it is over nothing.
away() { xdotool mousemove 1270 850 sleep 0.2; }

echo "captions of 20 pictures, an edit, undo, a question, attention, answers"
settings light 1
start "$work/twenty"
click 80 150
caption_all twenty
await 240 "20 captions did not come" has_captions twenty 20
for file in "$work"/twenty/*.txt; do
    iconv -f utf-8 -t utf-8 "$file" > /dev/null || fail "$file is not UTF-8"
    [ -s "$file" ] || fail "$file is empty"
done
[ -z "$(find "$work/twenty" -name '.*unfinished')" ] || fail "something unfinished was left"
made=$(cat "$work/twenty/00.txt")
xdotool key F2
sleep 0.5
type_in "edited by hand"
xdotool key ctrl+s
await 10 "the edit was not saved" grep -qx "edited by hand" "$work/twenty/00.txt"
away
shot light-caption
xdotool key Escape sleep 0.3 key ctrl+z sleep 0.3 key ctrl+s
await 10 "undo did not take the edit back" grep -qx "$made" "$work/twenty/00.txt"
xdotool key Right sleep 0.2 key Right sleep 0.2 key Right sleep 0.2 key ctrl+3 sleep 0.5
type_in "What colour is the heart?"
xdotool key Tab sleep 0.3
type_in "Where is the red circle?"
xdotool key ctrl+Return sleep 5
away
shot light-see
xdotool key ctrl+4 sleep 0.5
type_in "Can you count the things?"
xdotool key Tab sleep 0.3
type_in "1
3
4"
xdotool key ctrl+Return sleep 4
shot light-rank
xdotool key ctrl+2 sleep 0.5
type_in "Can you count the things?"
xdotool key ctrl+Return sleep 4
shot light-ask
xdotool key ctrl+5 sleep 0.5
type_in "circle"
shot light-find
xdotool key ctrl+6 sleep 4
shot light-models
xdotool key ctrl+7 sleep 4
shot light-gpu
xdotool key ctrl+8 sleep 0.5
shot light-settings
xdotool key F1 sleep 0.5
shot light-keys
xdotool key Escape sleep 0.3
quit

echo "many pictures: stop, then kill in the middle, then go on"
start "$work/many"
click 80 150
caption_all many
xdotool key Escape
sleep 3
stopped=$(captions many)
sleep 2
[ "$(captions many)" -eq "$stopped" ] && [ "$stopped" -lt 160 ] || fail "stop did not stop: $stopped captions"
echo "stopped after $stopped of 160"
caption_all many
await 120 "captions did not go on" has_captions many $((stopped + 40))
kill -9 "$app"
wait "$app" 2> /dev/null || true
app=
killed=$(captions many)
[ "$killed" -lt 160 ] || fail "everything was done before the kill"
[ -s "$work/config/job-1.jsonl" ] || fail "there is no journal"
before=$(find "$work/many" -name '*.txt' -exec cat {} + | md5sum)
start
away
shot offer
find "$work/many" -name '*.txt' -exec cat {} + | md5sum | grep -q "${before%% *}" || fail "captions changed by themselves"
# The first button under the bar.
click 34 44
await 400 "the job did not go on" has_captions many 160
sleep 2
[ ! -e "$work/config/job-1.jsonl" ] || fail "the journal is still there"
[ -z "$(find "$work/many" -name '*.txt' -empty)" ] || fail "a caption is empty"
echo "killed after $killed of 160, went on to 160"
shot went-on
quit

echo "dark, and 200 %"
settings dark 1
start "$work/twenty"
shot dark-caption
xdotool key ctrl+6 sleep 4
shot dark-models
quit
for look in light dark; do
    settings $look 2
    start "$work/twenty"
    shot $look-200-caption
    xdotool key ctrl+3 sleep 0.5
    type_in "Where is the red circle?"
    xdotool key ctrl+Return sleep 5
    shot $look-200-see
    xdotool key ctrl+6 sleep 4
    shot $look-200-models
    xdotool key ctrl+7 sleep 3
    shot $look-200-gpu
    xdotool key ctrl+8 sleep 1
    shot $look-200-settings
    xdotool key F1 sleep 1
    shot $look-200-keys
    xdotool key Escape sleep 0.3
    quit
done
echo "all of it"

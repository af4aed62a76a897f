#!/usr/bin/env bash
# Starts Mayfly, deploys a chat model with one line, and talks to it: with curl, and with the stock openai client for Python.
# Safe to run twice; fast the second time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binary is looked for in target/

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; }

step "Build (minutes the first time)"
if [ -n "${MAYFLY_BIN:-}" ]; then
    mayfly=$MAYFLY_BIN
else
    ./runtime/setup.sh
    cargo build --release --locked --package mayfly
    mayfly=$root/target/release/mayfly
fi
client=$root/target/openai-client
if [ "$(cat "$client/.done" 2>/dev/null)" != 3.52.0 ]; then
    python3 -m venv "$client"
    "$client/bin/python" -m pip --disable-pip-version-check install --quiet openai==3.52.0
    printf 3.52.0 >"$client/.done"
fi

step "Start a server of its own for this tour"
work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; }
    rm -rf "$work"
}
trap stop EXIT
"$mayfly" serve --json --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-dir "$work/data" >"$work/ready" 2>"$work/log" &
server=$!
for _ in $(seq 200); do
    [ -s "$work/ready" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
done
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/ready" "$1"; }
data=$(field data)
MAYFLY_URL=$(field admin)
MAYFLY_KEY=$(field admin_key)
export MAYFLY_URL MAYFLY_KEY
echo "data plane $data, control plane $MAYFLY_URL"

step "One line makes an endpoint of a folder"
show mayfly deploy builtin:chat --model examples/models/tiny-chat-genai
"$mayfly" deploy builtin:chat --model examples/models/tiny-chat-genai
show mayfly models show tiny-chat-genai
"$mayfly" models show tiny-chat-genai

auth="authorization: Bearer $MAYFLY_KEY"
ask() { curl -sS --fail-with-body -N -H "$auth" -H 'content-type: application/json' -d "$1" "$data/v1/chat/completions"; }

step "With curl"
question='{"model":"chat","temperature":0,"messages":[{"role":"user","content":"What is Mayfly?"}]}'
show "curl $data/v1/chat/completions -d '$question'"
ask "$question" | python3 -m json.tool

step "The same as a stream"
question='{"model":"chat","temperature":0,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Show me three fruits."}]}'
show "curl $data/v1/chat/completions -d '$question'"
ask "$question"

step "With the openai client for Python"
OPENAI_BASE_URL="$data/v1" OPENAI_API_KEY="$MAYFLY_KEY" "$client/bin/python" "$here/talk.py"

step "What it cost, counted by the host"
show mayfly usage --by deployment
"$mayfly" usage --by deployment

step "Stopped"
kill "$server" && wait "$server" && echo "the server drained and stopped"
server=

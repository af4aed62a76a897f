#!/usr/bin/env bash
# Builds Mayfly, starts it, deploys two handlers with two real models, calls them, shows usage and timings, waits until
# everything is scaled to zero, wakes it once more, and stops. Safe to run twice; fast the second time.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
unset CARGO_TARGET_DIR CARGO_BUILD_TARGET # the binaries are looked for in target/

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; }

step "Build (minutes the first time)"
./runtime/setup.sh
cargo build --release --locked --package mayfly
mayfly=$root/target/release/mayfly
./examples/quickstart/models.sh target/test-models
"$mayfly" doctor || true

step "Start a server of its own for this tour"
work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; }
    rm -rf "$work"
}
trap stop EXIT
# Short idle clocks, so that the way to zero can be watched. The defaults are minutes.
MAYFLY_HOST__CODE_IDLE_MS=3000 MAYFLY_INFERENCE__SESSION_IDLE_MS=3000 MAYFLY_INFERENCE__SESSION_STAY_MS_MIN=0 \
    "$mayfly" serve --json --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --data-dir "$work/data" \
    >"$work/ready" 2>"$work/log" &
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

step "Add two real models and deploy two built-in handlers"
show mayfly models add minilm target/test-models/minilm
"$mayfly" models add minilm target/test-models/minilm
show mayfly models add magika target/test-models/magika
"$mayfly" models add magika target/test-models/magika
show mayfly deploy builtin:embeddings --name embed --model minilm
"$mayfly" deploy builtin:embeddings --name embed --model minilm
show mayfly deploy builtin:classify --name filetype --model magika
"$mayfly" deploy builtin:classify --name filetype --model magika

auth="authorization: Bearer $MAYFLY_KEY"
timings() { tr -d '\r' <"$1" | grep -iE '^(x-mayfly-cold|x-mayfly-usage|server-timing|x-request-id):' | sed 's/^/    /'; }

step "Sentence embeddings, as any OpenAI client asks for them"
ask='{"model":"embed","input":["how do I reset my password","I forgot my login","the weather in Oslo"]}'
show "curl $data/v1/embeddings -d '$ask'"
curl -sS --fail-with-body -D "$work/head" -H "$auth" -H 'content-type: application/json' -d "$ask" "$data/v1/embeddings" >"$work/answer"
python3 - "$work/answer" <<'PY'
import json, sys
answer = json.load(open(sys.argv[1]))
a, b, c = (item["embedding"] for item in answer["data"])
near, far = (sum(x * y for x, y in zip(a, other)) for other in (b, c))
print(f"  how do I reset my password ~ I forgot my login    {near:.4f}")
print(f"  how do I reset my password ~ the weather in Oslo  {far:.4f}")
print(f"  usage {answer['usage']}")
assert near > 0.5 > far, "the first two should be near each other"
PY
timings "$work/head"
echo "  the same once more, warm:"
curl -sS --fail-with-body -D "$work/head" -o /dev/null -H "$auth" -H 'content-type: application/json' -d "$ask" "$data/v1/embeddings"
timings "$work/head"

step "File types of real files"
for file in README.md examples/quickstart/minilm_to_onnx.py target/release/mayfly handlers/target/wasm32-wasip2/release/classify.wasm; do
    curl -sS --fail-with-body -H "$auth" --data-binary @<(head -c 1000000 "$file") "$data/d/default/filetype/?top=1" >"$work/answer"
    printf '  %-55s %s\n' "$file" "$(python3 -c 'import json,sys; r=json.load(open(sys.argv[1]))["data"][0]["results"][0]; print(r["label"], round(r["score"], 3))' "$work/answer")"
done

step "What it cost, counted by the host"
show mayfly usage --by deployment
"$mayfly" usage --by deployment

step "Scaled to zero"
show mayfly list
for _ in $(seq 100); do
    "$mayfly" list --json >"$work/list"
    python3 -c 'import json,sys; sys.exit(any(d["tier"] != "zero" for d in json.load(open(sys.argv[1]))["data"]))' "$work/list" && break
    sleep 0.2
done
"$mayfly" list

step "Woken once more"
curl -sS --fail-with-body -D "$work/head" -o /dev/null -H "$auth" -H 'content-type: application/json' -d "$ask" "$data/v1/embeddings"
timings "$work/head"

step "Stopped"
kill "$server" && wait "$server" && echo "the server drained and stopped"
server=

#!/usr/bin/env bash
# The Autobahn test-suite, all cases, against the echo endpoint of a running program.
#
#   tests/autobahn/run.sh PYTHON STENTOR OUT [DRIVER [--quick]]
#
# PYTHON has the packages that suite.py names. The result is compared with expected.json, case by case: a regression is a failure,
# an improvement is reported. To take a result over as the expectation: compare.py OUT --update. With --quick, the cases with long compressed
# messages are left out: a minute instead of nine.
set -euo pipefail
cd "$(dirname "$0")"
python=$1 stentor=$2 out=$3 driver=${4:-auto} quick=("${@:5}")
mkdir -p "$out"

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$stentor" serve --listen "127.0.0.1:$port" --echo --driver "$driver" --max-message 16MiB --log warn --ping-interval 0s &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait 2>/dev/null || true' EXIT

# Converted once, then three processes with cases of their own.
"$python" suite.py --url "ws://127.0.0.1:$port/echo" --out "$out/warm" --cache "$out/cache" --cases 1.1.1 >/dev/null
pids=()
for part in 0 12 13; do
  if [ "$part" = 0 ]; then cases=('*'); exclude=('12.*' '13.*'); else cases=("$part.*"); exclude=(); fi
  "$python" suite.py --url "ws://127.0.0.1:$port/echo" --agent stentor --out "$out/$part" --cache "$out/cache" \
    --cases "${cases[@]}" --exclude "${exclude[@]}" "${quick[@]}" >"$out/$part.log" 2>&1 &
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
cat "$out"/*.log
"$python" compare.py "$out" "${quick[@]}"
exit "$failed"

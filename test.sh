#!/usr/bin/env bash
# Installs what the tests need and runs all of them. On a fresh Debian with Rust: ./test.sh
#
#   ./test.sh            every step
#   ./test.sh e2e fuzz   these steps
#   ./test.sh --list     the steps and what they do
#
# A step prints one line; what it said is in .cache/log/STEP.log, and on the terminal when it failed. Nothing is skipped in
# silence: a step that cannot run, or not all of it, says why. Everything that is installed goes to .cache, or comes from apt.
set -uo pipefail
cd "$(dirname "$0")" || exit

CACHE=$PWD/.cache
LOG=$CACHE/log
mkdir -p "$LOG"
export CARGO_TERM_COLOR=never CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
STENTOR=$CARGO_TARGET_DIR/release/stentor
SWARM=$CARGO_TARGET_DIR/release/swarm
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
SIM_SECONDS=${SIM_SECONDS:-120}

# Before the first colon: the step. Those in one row run one after the other; rows run in the order of the phases below.
declare -A WHAT=(
  [fmt]="the code is formatted"
  [clippy]="no lint complains"
  [doc]="the documentation builds"
  [core]="the core builds without sockets, threads and files"
  [test]="unit, property, whole-shard, conformance, configuration and end-to-end tests"
  [loom]="the rings between shards in every interleaving"
  [sanitize]="end-to-end tests with the address and the thread sanitizer"
  [release]="the release binary and the benches build"
  [systemd]="the unit is valid, and a passed socket is served"
  [clients]="clients that nobody here wrote: websockets, aiohttp, ws, centrifuge; tokens of PyJWT"
  [browser]="the chat page and the load test's report in Chromium"
  [nats]="the load test against another server, nats-server"
  [autobahn]="the Autobahn test-suite, all 517 cases"
  [sim]="the simulator, with new seeds for ${SIM_SECONDS} s"
  [fuzz]="every fuzz target for ${FUZZ_SECONDS} s"
)

apt_install() { # packages: only those that are missing
  local missing=()
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then echo "needs root to install: ${missing[*]}"; return 77; fi
  (flock 9; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}") 9>"$CACHE/apt.lock"
}

need() { # command, packages that bring it: only when it is not there, however it came
  command -v "$1" >/dev/null || apt_install "${@:2}"
}

need_python() { python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv; }

venv() { # name, packages: a Python environment of its own
  local folder=$CACHE/$1; shift
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder" || return 1
  "$folder/bin/pip" install -q --disable-pip-version-check "$@"
}

step_fmt() { cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check; }
step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps; }
step_core() { cargo check --locked --lib --no-default-features; }
step_test() { TESTS_ALLOW_NO_URING=1 cargo test --locked --workspace --no-fail-fast; }
step_release() { cargo build --locked --release --workspace && cargo bench --locked --no-run; }

step_systemd() {
  need systemd-analyze systemd && need systemd-socket-activate systemd || return
  local folder; folder=$(mktemp -d)
  # The unit names the installed program; here it is the built one.
  sed "s|/usr/local/bin/stentor|$STENTOR|" deploy/stentor.service >"$folder/stentor.service"
  cp deploy/stentor.socket "$folder/"
  systemd-analyze verify "$folder/stentor.service" "$folder/stentor.socket" &&
    "$STENTOR" check --config deploy/stentor.toml &&
    cargo test --locked --test e2e -- service_manager
}

step_clients() {
  need_python && need npm nodejs npm && need curl curl || return
  venv clients -r tests/clients/requirements.txt && npm ci --prefix tests/clients --silent --no-audit --no-fund || return
  local port=$((20000 + RANDOM % 10000)) server failed=0
  "$STENTOR" serve --listen "127.0.0.1:$port" --log warn --max-session-messages-per-second 0 & server=$!
  for _ in $(seq 100); do curl -sf "http://127.0.0.1:$port/readyz" >/dev/null && break; sleep 0.05; done
  "$CACHE/clients/bin/python" tests/clients/python_clients.py "127.0.0.1:$port" || failed=1
  "$CACHE/clients/bin/python" tests/clients/tokens.py "$STENTOR" || failed=1
  node tests/clients/node_clients.mjs "127.0.0.1:$port" || failed=1
  kill "$server"; wait "$server" || failed=1
  node tests/clients/centrifuge.mjs "$STENTOR" || failed=1
  node tests/clients/codes.mjs "$STENTOR" || failed=1
  return "$failed"
}

step_browser() {
  need chromium chromium && need npm nodejs npm || return
  npm ci --prefix tests/browser --silent --no-audit --no-fund &&
    node tests/browser/chat.mjs "$STENTOR" "$CACHE/screenshots" &&
    node tests/browser/report.mjs "$STENTOR" "$SWARM" "$CACHE/screenshots"
}

step_nats() {
  need nats-server nats-server || return
  local port=$((20000 + RANDOM % 10000)) server outcome
  printf 'listen: "127.0.0.1:%d"\nwebsocket { listen: "127.0.0.1:%d", no_tls: true }\n' "$((port + 1))" "$port" >"$CACHE/nats.conf"
  nats-server -c "$CACHE/nats.conf" & server=$!
  for _ in $(seq 100); do curl -s "http://127.0.0.1:$port/" >/dev/null; [ $? -ne 7 ] && break; sleep 0.05; done
  # Its subscribers agree on the order of one publisher, not on that of several: so one speaks.
  "$SWARM" chat "ws://127.0.0.1:$port" --preset nats --clients 200 --speakers 1 --duration 2s --size 48..3000 --deflate
  outcome=$?
  kill "$server"; wait "$server"
  return "$outcome"
}

step_autobahn() {
  local python
  python=$(command -v python3.11 || command -v python3)
  "$python" -c 'import lib2to3' 2>/dev/null || { echo "needs Python 3.11 or 3.12: later ones have no lib2to3"; return 77; }
  need_python && need gcc gcc libc6-dev || return
  [ -x "$CACHE/autobahn/bin/python" ] || "$python" -m venv "$CACHE/autobahn" || return
  venv autobahn autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 twisted==22.10.0 wsaccel==0.6.7 six 'setuptools<70' &&
    tests/autobahn/run.sh "$CACHE/autobahn/bin/python" "$STENTOR" "$CACHE/autobahn-report"
}

step_sim() { STENTOR_SIM_SECONDS=$SIM_SECONDS cargo test --locked --test sim -- --nocapture; }

step_fuzz() {
  need g++ g++ || return
  command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet || return
  local target failed=0
  # libFuzzer's instrumentation is a nightly flag that stable takes when it is told that this is meant.
  export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz
  for target in $(cargo fuzz list); do
    mkdir -p "$CACHE/corpus/$target"
    local words=fuzz/seeds/$target.dict
    # New inputs go to the first folder; what the second has is read only.
    cargo fuzz run --sanitizer none "$target" "$CACHE/corpus/$target" "fuzz/seeds/$target" -- \
      -max_total_time="$FUZZ_SECONDS" -timeout=10 -max_len=4096 $([ -e "$words" ] && echo -dict="$words") || failed=1
  done
  return "$failed"
}

step_loom() {
  RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/loom timeout 900 \
    cargo test --locked --lib --no-default-features spsc::models
}

step_sanitize() {
  local target kind failed=0 reports=$CACHE/sanitize
  # From end to end, on both drivers.
  local ends=(--test e2e --test e2e_uring --test centrifuge --test centrifuge_uring --test identity)
  target=$(rustc -vV | sed -n 's/^host: //p')
  [ "$target" = x86_64-unknown-linux-gnu ] || { echo "needs x86_64-unknown-linux-gnu: here it is $target"; return 77; }
  rm -rf "$reports" && mkdir -p "$reports"
  export TESTS_ALLOW_NO_URING=1
  # The sanitizers are nightly flags, see step_fuzz. Every program that they find fault with leaves a file with its name.
  export RUSTC_BOOTSTRAP=1 ASAN_OPTIONS=log_path=$reports/address:log_exe_name=1
  export TSAN_OPTIONS=log_path=$reports/thread:log_exe_name=1:exitcode=0:suppressions=$PWD/tests/sanitize/thread.supp
  sanitized address --lib --test conformance --test config --test drivers "${ends[@]}" || failed=1
  sanitized thread "${ends[@]}" || failed=1
  # Of the second only the server counts: the test harness waits for its threads in the standard library, which is not
  # instrumented (that would need its sources and -Zbuild-std).
  for kind in "$reports"/address.* "$reports"/thread.stentor.*; do
    [ -e "$kind" ] && { cat "$kind"; failed=1; }
  done
  return "$failed"
}

sanitized() { # sanitizer, which tests: in a target directory of its own
  RUSTFLAGS="-Zsanitizer=$1 -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/sanitize/$1 timeout 1500 \
    cargo test --locked -p stentor --target "$target" --no-fail-fast "${@:2}"
}

# Phases run one after the other; the lanes of a phase beside each other, the steps of a lane in order.
PHASES=("fmt" "clippy doc core test release systemd" "autobahn sim|clients browser nats loom sanitize fuzz")

if [ "${1:-}" = --list ]; then
  for step in fmt clippy doc core test release systemd clients browser nats autobahn sim loom sanitize fuzz; do printf '%-10s %s\n' "$step" "${WHAT[$step]}"; done
  exit 0
fi
for step in "$@"; do
  [ -n "${WHAT[$step]:-}" ] || { echo "there is no step '$step'; ./test.sh --list names them"; exit 2; }
done

wanted() { [ $# -eq 1 ] || { local step=$1; shift; [[ " $* " == *" $step "* ]]; }; }

run_step() {
  local step=$1 started=$SECONDS code
  "step_$step" >"$LOG/$step.log" 2>&1 </dev/null; code=$?
  local took=$((SECONDS - started))
  # What a test program had to leave out: see `has_uring` in tests/support.
  local left_out; left_out=$(grep -ho 'SKIPPED: .*' "$LOG/$step.log" | sort -u)
  [ "$code" -eq 0 ] && [ -n "$left_out" ] && code=partly
  case $code in
    partly) printf 'partly   %-10s %4d s, without:\n%s\n' "$step" "$took" "${left_out//SKIPPED: /           }"; echo partly >"$LOG/$step.result" ;;
    0) printf 'ok       %-10s %4d s\n' "$step" "$took"; echo ok >"$LOG/$step.result" ;;
    77) printf 'skipped  %-10s %s\n' "$step" "$(tail -n 1 "$LOG/$step.log")"; echo skipped >"$LOG/$step.result" ;;
    *) printf 'FAILED   %-10s %4d s, from %s:\n' "$step" "$took" "$LOG/$step.log"; tail -n 60 "$LOG/$step.log"
       echo FAILED >"$LOG/$step.result" ;;
  esac
}

rm -f "$LOG"/*.result
# A step that needs the program builds it, even when it is asked for alone.
if [ $# -gt 0 ] && [[ " $* " =~ \ (systemd|clients|browser|nats|autobahn)\  ]] && [[ " $* " != *" release "* ]]; then
  cargo build --locked --release --workspace || exit 1
fi
for phase in "${PHASES[@]}"; do
  IFS='|' read -ra lanes <<<"$phase"
  for lane in "${lanes[@]}"; do
    (for step in $lane; do wanted "$step" "$@" && run_step "$step"; done) &
  done
  wait
done

count() { cat "$LOG"/*.result 2>/dev/null | grep -c "^$1$"; }
echo "$(count ok) passed, $(count FAILED) failed, $(count skipped) skipped, $(count partly) skipped in part"
[ "$(count FAILED)" -eq 0 ]

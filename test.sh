#!/usr/bin/env bash
# Installs what the tests need and runs all of them. On a fresh Debian with Rust: ./test.sh
#
#   ./test.sh            every step
#   ./test.sh e2e fuzz   these steps
#   ./test.sh --list     the steps and what they do
#   ./test.sh soak       what takes longer, by hand: see the end of --list. A step that has passed is not repeated, so it can
#                        be interrupted and called again; --fresh repeats all. Results: docs/soak.md
#
# A step prints one line; its output is in .cache/log/STEP.log, and on the terminal when it failed. Nothing is skipped in
# silence: a step that cannot run, or not all of it, says why. Everything that is installed goes to .cache, or comes from apt.
set -uo pipefail
cd "$(dirname "$0")" || exit

CACHE=$PWD/.cache
LOG=$CACHE/log
mkdir -p "$LOG"
export PATH=$CACHE/tools/bin:$PATH CARGO_TERM_COLOR=never CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
# A backtrace needs lines and no more: a clean clone builds faster so.
export CARGO_PROFILE_DEV_DEBUG=${CARGO_PROFILE_DEV_DEBUG:-line-tables-only}
# What is built for the first time is not built in units that a second build could use.
[ -d "$CARGO_TARGET_DIR" ] || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
STENTOR=$CARGO_TARGET_DIR/release/stentor
SWARM=$CARGO_TARGET_DIR/release/swarm
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
SIM_SECONDS=${SIM_SECONDS:-120}
SOAK_FUZZ_SECONDS=${SOAK_FUZZ_SECONDS:-600}
SOAK_SIM_SECONDS=${SOAK_SIM_SECONDS:-3600}

# Before the first colon: the step. Those in one row run one after the other; rows run in the order of the phases below.
declare -A WHAT=(
  [fmt]="the code is formatted"
  [spelling]="no word of the code and the documents is misspelt (typos)"
  [deny]="licenses, sources and bans of all dependencies; advisories where their database can be fetched (cargo-deny)"
  [machete]="no dependency is unused (cargo-machete)"
  [docs]="links and anchors of the documents resolve, and their shell blocks run"
  [clippy]="no lint complains"
  [doc]="the documentation builds"
  [core]="the core builds without sockets, threads and files"
  [test]="unit, property, whole-shard, conformance, configuration and end-to-end tests"
  [loom]="the rings between shards in every interleaving"
  [sanitize]="end-to-end tests with the address sanitizer (the thread sanitizer: soak)"
  [release]="the release binaries build (the benches: soak)"
  [systemd]="the unit is valid, and a passed socket is served"
  [clients]="clients that nobody here wrote: websockets, aiohttp, ws, centrifuge, sockjs-client; tokens of PyJWT"
  [proxies]="deploy/proxies: nginx, HAProxy and Caddy in front of the server, each with the file as documented"
  [browser]="the chat page, the load test's report and sockjs-client in Chromium"
  [nats]="the load test against another server, nats-server"
  [autobahn]="the Autobahn test-suite, 385 of 517 cases (those with long compressed messages, and both drivers: soak)"
  [sim]="the simulator, with new seeds for ${SIM_SECONDS} s (for an hour: soak)"
  [fuzz]="every fuzz target for ${FUZZ_SECONDS} s (for ten minutes: soak)"
)
STEPS=(fmt spelling deny machete clippy doc core test release docs systemd clients proxies browser nats autobahn sim loom sanitize fuzz)

# What `./test.sh soak` does, in this order. A fuzz target is a step of its own.
declare -A SOAK_WHAT=(
  [soak-sim]="the simulator, with new seeds for ${SOAK_SIM_SECONDS} s"
  [soak-mutations]="all mutations of tests/mutations/run.py: each must be found"
  [soak-autobahn-epoll]="the Autobahn test-suite, all 517 cases, on epoll"
  [soak-autobahn-uring]="the same on io_uring"
  [soak-address]="end-to-end, codec and configuration tests with the address sanitizer"
  [soak-thread]="end-to-end tests with the thread sanitizer"
  [soak-benches]="the benches build, and every benchmark of the codec and the fan-out runs once"
  [soak-documents]="the shell blocks of the documents, with as many clients and as long as written"
)
SOAK_STEPS=(soak-sim soak-mutations soak-autobahn-epoll soak-autobahn-uring soak-address soak-thread soak-benches soak-documents)
for target in fuzz/fuzz_targets/*.rs; do
  target=$(basename "$target" .rs)
  grep -q "name = \"$target\"" fuzz/Cargo.toml || continue
  SOAK_WHAT[soak-fuzz-$target]="the fuzz target $target for ${SOAK_FUZZ_SECONDS} s"
  SOAK_STEPS+=("soak-fuzz-$target")
done

apt_install() { # packages: only those that are missing
  local missing=()
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then echo "needs root to install: ${missing[*]}"; return 77; fi
  (flock 9; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}") 9>"$CACHE/apt.lock"
}

apt_install_stopped() { # packages of services, none of which is started, now or with the machine
  local missing=() policy=/usr/sbin/policy-rc.d made='' code
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -eq 0 ] && [ ! -e $policy ]; then
    made=$policy
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
  fi
  apt_install "${missing[@]}"; code=$?
  [ -z "$made" ] || rm -f "$made"
  if [ "$code" -eq 0 ] && command -v systemctl >/dev/null; then systemctl disable -q "${missing[@]}" || true; fi
  return "$code"
}

need() { # command, packages that bring it: only when it is not there, however it came
  command -v "$1" >/dev/null || apt_install "${@:2}"
}

cargo_tool() { # crate, version: in .cache, built once
  [ ! -e "$CACHE/tools/$1-$2" ] || return 0
  # It runs for seconds, and is built for minutes: not optimized.
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
  CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR=$CACHE/tools/target cargo install --quiet --locked --root "$CACHE/tools" --version "$2" "$1" &&
    rm -rf "$CACHE/tools/target" && touch "$CACHE/tools/$1-$2"
}

need_python() { python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv; }

venv() { # name, packages: a Python environment of its own
  local folder=$CACHE/$1; shift
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder" || return 1
  "$folder/bin/pip" install -q --disable-pip-version-check "$@"
}

step_spelling() { need_python && venv spelling typos==1.52.0 && "$CACHE/spelling/bin/typos" --config typos.toml; }

step_deny() {
  cargo_tool cargo-deny 0.20.2 || return
  local deny=("$CACHE/tools/bin/cargo-deny" --offline --workspace --locked)
  cargo fetch --locked --quiet && "${deny[@]}" check bans licenses sources || return
  # The database is a Git repository; where it cannot be reached, only this part is left out.
  if "$CACHE/tools/bin/cargo-deny" fetch db; then
    "${deny[@]}" check advisories
  else
    echo "SKIPPED: advisories: their database cannot be fetched"
  fi
}

step_machete() { cargo_tool cargo-machete 0.9.2 && "$CACHE/tools/bin/cargo-machete"; }

step_docs() {
  need python3 python3 && need curl curl && need openssl openssl && need npm nodejs npm || return
  npm ci --prefix tests/clients --silent --no-audit --no-fund &&
    python3 tests/docs/links.py && python3 tests/docs/benchmarks.py --check && python3 tests/docs/run.py "$STENTOR" "$SWARM"
}

step_fmt() { cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check; }
step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --features stentor/sim; }
step_core() { cargo check --locked --lib --no-default-features; }
# The load tester's tests take the server that is built here, instead of building it again with the features it has alone.
step_test() {
  TESTS_ALLOW_NO_URING=1 TESTS_STENTOR=$CARGO_TARGET_DIR/debug/stentor cargo test --locked --workspace --no-fail-fast
}
# With what is installed of it: see docs/operations.md.
step_release() { cargo build --locked --release --workspace && deploy/package.sh && "$CARGO_TARGET_DIR/dist/stentor" check; }

step_systemd() {
  need systemd-analyze systemd && need systemd-socket-activate systemd || return
  local folder; folder=$(mktemp -d)
  # The unit names the installed program; here it is the built one.
  sed "s|/usr/local/bin/stentor|$STENTOR|" deploy/stentor.service >"$folder/stentor.service"
  cp deploy/stentor.socket "$folder/"
  systemd-analyze verify "$folder/stentor.service" "$folder/stentor.socket" &&
    "$STENTOR" check --config deploy/stentor.toml &&
    cargo test --locked --workspace --test e2e -- service_manager # all packages: as the step `test` has built it
}

step_clients() {
  need_python && need npm nodejs npm && need curl curl || return
  venv clients -r tests/clients/requirements.txt && npm ci --prefix tests/clients --silent --no-audit --no-fund || return
  local port=$((20000 + RANDOM % 10000)) server failed=0
  "$STENTOR" serve --listen "127.0.0.1:$port" --log warn --max-session-messages-per-second 0 --shutdown-delay 0s & server=$!
  for _ in $(seq 100); do curl -sf "http://127.0.0.1:$port/readyz" >/dev/null && break; sleep 0.05; done
  "$CACHE/clients/bin/python" tests/clients/python_clients.py "127.0.0.1:$port" || failed=1
  "$CACHE/clients/bin/python" tests/clients/tokens.py "$STENTOR" || failed=1
  node tests/clients/node_clients.mjs "127.0.0.1:$port" || failed=1
  kill "$server"; wait "$server" || failed=1
  node tests/clients/centrifuge.mjs "$STENTOR" || failed=1
  node tests/clients/codes.mjs "$STENTOR" || failed=1
  node tests/clients/emulation.mjs "$STENTOR" || failed=1
  node tests/clients/sockjs.mjs "$STENTOR" || failed=1
  return "$failed"
}

step_proxies() {
  local proxy proxies=()
  need_python && need openssl openssl || return
  for proxy in nginx haproxy caddy; do
    if PATH=$PATH:/usr/sbin command -v $proxy >/dev/null || apt_install_stopped $proxy; then
      proxies+=($proxy)
    else
      echo "SKIPPED: $proxy: it is not there and cannot be installed"
    fi
  done
  [ ${#proxies[@]} -gt 0 ] || { echo "no proxy is there, and none can be installed"; return 77; }
  venv clients -r tests/clients/requirements.txt &&
    "$CACHE/clients/bin/python" tests/proxies/run.py "$STENTOR" "$SWARM" "${proxies[@]}"
}

step_browser() {
  need chromium chromium && need npm nodejs npm || return
  PATH=$PATH:/usr/sbin command -v nginx >/dev/null || apt_install_stopped nginx || return
  npm ci --prefix tests/browser --silent --no-audit --no-fund &&
    node tests/browser/chat.mjs "$STENTOR" "$CACHE/screenshots" &&
    node tests/browser/states.mjs "$STENTOR" "$CACHE/screenshots" &&
    node tests/browser/transports.mjs "$STENTOR" "$CACHE/screenshots" &&
    node tests/browser/log.mjs "$STENTOR" &&
    node tests/browser/sockjs.mjs "$STENTOR" &&
    node tests/browser/report.mjs "$STENTOR" "$SWARM" "$CACHE/screenshots"
}

step_nats() {
  need nats-server nats-server || return
  local port=$((20000 + RANDOM % 10000)) server outcome
  printf 'listen: "127.0.0.1:%d"\nwebsocket { listen: "127.0.0.1:%d", no_tls: true }\n' "$((port + 1))" "$port" >"$CACHE/nats.conf"
  nats-server -c "$CACHE/nats.conf" & server=$!
  for _ in $(seq 100); do curl -s "http://127.0.0.1:$port/" >/dev/null; [ $? -ne 7 ] && break; sleep 0.05; done
  # Its subscribers agree on the order of one publisher, not on that of several: hence one publisher.
  "$SWARM" chat "ws://127.0.0.1:$port" --preset nats --clients 200 --publishers 1 --duration 2s --size 48..3000 --deflate
  outcome=$?
  kill "$server"; wait "$server"
  return "$outcome"
}

step_autobahn() { autobahn auto --quick; }

autobahn() { # driver, further arguments of run.sh
  local python
  python=$(command -v python3.11 || command -v python3)
  "$python" -c 'import lib2to3' 2>/dev/null || { echo "needs Python 3.11 or 3.12: later ones have no lib2to3"; return 77; }
  need_python && need gcc gcc libc6-dev || return
  [ -x "$CACHE/autobahn/bin/python" ] || "$python" -m venv "$CACHE/autobahn" || return
  venv autobahn autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 twisted==22.10.0 wsaccel==0.6.7 six 'setuptools<70' &&
    tests/autobahn/run.sh "$CACHE/autobahn/bin/python" "$STENTOR" "$CACHE/autobahn-report" "$@"
}

step_sim() { STENTOR_SIM_SECONDS=$SIM_SECONDS cargo test --locked --workspace --test sim -- --nocapture; }

step_fuzz() {
  local step failed=0
  # They run for seconds and are built for minutes: hardly optimized.
  local -x CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
  for step in "${SOAK_STEPS[@]}"; do
    [[ $step != soak-fuzz-* ]] || fuzz "${step#soak-fuzz-}" "$FUZZ_SECONDS" || failed=$?
  done
  return "$failed"
}

fuzz() { # target, seconds
  need g++ g++ || return
  cargo_tool cargo-fuzz 0.13.2 || return
  local target=$1 words=fuzz/seeds/$1.dict
  local folders=("$CACHE/corpus/$target")
  mkdir -p "${folders[0]}"
  # New inputs go to the first folder; what the second has is read only.
  [ ! -d "fuzz/seeds/$target" ] || folders+=("fuzz/seeds/$target")
  # libFuzzer's instrumentation is a nightly flag that stable accepts with RUSTC_BOOTSTRAP.
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$CARGO_TARGET_DIR/fuzz cargo fuzz run --sanitizer none "$target" "${folders[@]}" -- \
    -max_total_time="$2" -timeout=10 -max_len=4096 $([ -e "$words" ] && echo -dict="$words") || return 1
}

step_loom() {
  RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/loom timeout 900 cargo test --locked -p stentor-loom --lib
}

# From end to end, on both drivers.
ENDS=(--test e2e --test e2e_uring --test operations --test operations_uring --test centrifuge --test centrifuge_uring --test identity
  --test emulation --test emulation_uring --test sockjs --test sockjs_uring)

step_sanitize() { sanitize address --lib --test conformance --test config --test drivers "${ENDS[@]}"; }

sanitize() { # sanitizer, which tests
  local target report failed=0 reports=$CACHE/sanitize/$1
  target=$(rustc -vV | sed -n 's/^host: //p')
  [ "$target" = x86_64-unknown-linux-gnu ] || { echo "needs x86_64-unknown-linux-gnu: here it is $target"; return 77; }
  rm -rf "$reports" && mkdir -p "$reports"
  # The sanitizers are nightly flags, see fuzz. Every program that they find fault with leaves a file with its name.
  local -x RUSTC_BOOTSTRAP=1 TESTS_ALLOW_NO_URING=1 ASAN_OPTIONS=log_path=$reports/address:log_exe_name=1
  local -x TSAN_OPTIONS=log_path=$reports/thread:log_exe_name=1:exitcode=0:suppressions=$PWD/tests/sanitize/thread.supp
  sanitized "$@" || failed=1
  # Of the thread sanitizer only the server counts: the test harness waits for its threads in the standard library, which is
  # not instrumented (that would need its sources and -Zbuild-std).
  for report in "$reports"/address.* "$reports"/thread.stentor.*; do
    [ -e "$report" ] && { cat "$report"; failed=1; }
  done
  return "$failed"
}

sanitized() { # sanitizer, which tests: in a target directory of its own
  RUSTFLAGS="-Zsanitizer=$1 -Cunsafe-allow-abi-mismatch=sanitizer" CARGO_TARGET_DIR=$CARGO_TARGET_DIR/sanitize/$1 timeout 1500 \
    cargo test --locked -p stentor --target "$target" --no-fail-fast "${@:2}"
}

soak_step() { # one of SOAK_STEPS
  case $1 in
    soak-sim) STENTOR_SIM_SECONDS=$SOAK_SIM_SECONDS cargo test --locked --workspace --test sim the_server -- --nocapture ;;
    soak-mutations) tests/mutations/run.py ;;
    soak-autobahn-*) step_release && autobahn "${1#soak-autobahn-}" ;;
    soak-address) step_sanitize ;;
    soak-thread) sanitize thread "${ENDS[@]}" ;;
    soak-benches) cargo bench --locked --no-run && cargo bench --locked --bench frame --bench fanout -- --test ;;
    soak-documents) step_release && npm ci --prefix tests/clients --silent --no-audit --no-fund && python3 tests/docs/run.py --as-written "$STENTOR" "$SWARM" ;;
    soak-fuzz-*) fuzz "${1#soak-fuzz-}" "$SOAK_FUZZ_SECONDS" ;;
  esac
}

soak_note() { # a step: what its log says of what it has done, in a few words
  local log=$LOG/$1.log
  case $1 in
    soak-sim) grep -o '[0-9]* new scenarios.*' "$log" ;;
    soak-mutations) echo "$(($(grep -c '^| ' "$log") - 1)) mutations, $(grep -c '\*\*none\*\*' "$log") not found" ;;
    soak-autobahn-*) grep -o '[0-9]* cases, .*' "$log" ;;
    soak-address | soak-thread) awk '/^test result/ { count += $4 } END { print count " tests" }' "$log" ;;
    soak-benches) echo "$(grep -c '^Testing' "$log") benchmarks" ;;
    soak-documents) tail -n 1 "$log" ;;
    soak-fuzz-*) grep -o 'Done [0-9]* runs' "$log" ;;
  esac 2>/dev/null | tail -n 1
}

# The table of the last results. A step that has never run here keeps the row that it had.
soak_table() {
  local step
  {
    printf '# Long tests\n\n'
    printf 'What `./test.sh soak` found the last time that each of its steps ran. The file is written by that command.\n\n'
    printf '| step | what | result | date | commit | took |\n|---|---|---|---|---|---|\n'
    for step in "${SOAK_STEPS[@]}"; do
      cat "$SOAK/$step.row" 2>/dev/null || grep "^| $step |" docs/soak.md 2>/dev/null ||
        echo "| $step | ${SOAK_WHAT[$step]} | not run yet | | | |"
    done
  } >"$SOAK/table.md"
  cp "$SOAK/table.md" docs/soak.md
}

soak() { # [--fresh], steps or beginnings of their names
  local step code started took result commit passed=0 failed=0 fresh=0 chosen=()
  SOAK=$CACHE/soak
  mkdir -p "$SOAK"
  [ "${1:-}" != --fresh ] || { fresh=1; shift; }
  for step in "${SOAK_STEPS[@]}"; do
    [ $# -eq 0 ] || [[ " $* " == *" ${step#soak-} "* || " $* " == *" $(cut -d- -f2 <<<"$step") "* ]] || continue
    chosen+=("$step")
  done
  [ ${#chosen[@]} -gt 0 ] || { echo "there is no such step; ./test.sh --list names them"; return 2; }
  [ "$fresh" -eq 0 ] || for step in "${chosen[@]}"; do rm -f "$SOAK/$step.done"; done
  commit=$(git rev-parse --short HEAD)
  [ -z "$(git status --porcelain -- . ':!docs/soak.md')" ] || commit+=" and changes"
  soak_table
  for step in "${chosen[@]}"; do
    if [ -e "$SOAK/$step.done" ]; then
      printf 'before   %-24s %s\n' "$step" "$(cat "$SOAK/$step.done") (--fresh repeats it)"; passed=$((passed + 1)); continue
    fi
    started=$SECONDS
    soak_step "$step" >"$LOG/$step.log" 2>&1 </dev/null; code=$?
    took=$(((SECONDS - started + 59) / 60))
    case $code in
      0) result="passed: $(soak_note "$step")"; passed=$((passed + 1)); echo "passed on $(date -I) at $commit" >"$SOAK/$step.done" ;;
      77) result="skipped: $(tail -n 1 "$LOG/$step.log")" ;;
      *) result="FAILED: $(soak_note "$step"; tail -n 1 "$LOG/$step.log" | tr '|\n' '/ ')"; failed=$((failed + 1)); tail -n 60 "$LOG/$step.log" ;;
    esac
    grep -q 'SKIPPED: ' "$LOG/$step.log" && result+=" ($(grep -ho 'SKIPPED: .*' "$LOG/$step.log" | sort -u | paste -sd';'))"
    printf '%-8s %-24s %4d min\n' "${result%%:*}" "$step" "$took"
    echo "| $step | ${SOAK_WHAT[$step]} | $result | $(date -I) | $commit | $took min |" >"$SOAK/$step.row"
    soak_table
  done
  echo "$passed of ${#chosen[@]} passed, $failed failed; docs/soak.md has the table"
  [ "$failed" -eq 0 ]
}

# Phases run one after the other; the lanes of a phase beside each other, the steps of a lane in order.
PHASES=("fmt spelling" "clippy doc core|deny machete" "test release systemd" "autobahn sim loom fuzz|docs clients proxies browser nats sanitize")

if [ "${1:-}" = --list ]; then
  for step in "${STEPS[@]}"; do printf '%-10s %s\n' "$step" "${WHAT[$step]}"; done
  printf '\nNot in the normal run, but in ./test.sh soak [--fresh] [STEP…] (a step is also chosen by its name without soak-):\n'
  for step in "${SOAK_STEPS[@]}"; do printf '%-24s %s\n' "$step" "${SOAK_WHAT[$step]}"; done
  exit 0
fi
if [ "${1:-}" = soak ]; then need cc gcc libc6-dev && soak "${@:2}"; exit; fi
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

# A bare machine has no linker. Only what follows compiles.
need cc gcc libc6-dev || exit 1
rm -f "$LOG"/*.result
# A step that needs the program builds it, even when it is asked for alone.
if [ $# -gt 0 ] && [[ " $* " =~ \ (docs|systemd|clients|proxies|browser|nats|autobahn)\  ]] && [[ " $* " != *" release "* ]]; then
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
[ $# -gt 0 ] || echo "not run: the ${#SOAK_STEPS[@]} long steps of ./test.sh soak (docs/soak.md has their last results)"
[ "$(count FAILED)" -eq 0 ]

#!/usr/bin/env python3
"""The transports side by side: what a delivery and a waiting member cost the server over each of them.

    cargo build --release --workspace
    benches/transports.py [--rounds 5] [--seconds 3] [--driver epoll] [--record docs/transports.jsonl] [ROW ...]

Rows, all of them by default:

    open    1,000 members, 200 messages/s: server-sent events and lines of JSON, to WebSocket
    flood   1,000 members, 10 publishers with 16 messages in flight each: the same
    poll    1,000 members, 5 messages/s: long polling, to WebSocket
    idle    15,000 members without messages: resident memory of each, over every transport
    send    POST /send into rooms without members, on 32 connections: one request at a time, and pipelined

The server has the first core and one shard, the client the last core. Publishers use WebSocket in every run, so that the runs of
a row differ in how members receive, and in nothing else. The rows `open`, `flood` and `send` are those of `cargo bench --bench
floor`, where a delivery has 256 bytes on the wire over each transport; `poll` and `idle` are runs of swarm, which fail if
anything is lost, duplicated or reordered. In each round every transport is measured once, with a new server, in an order that
changes; what is printed is the median of the ratios to WebSocket in the same round. Ends with 1 when a median is outside its bound.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import ROOT, free_port

SERVER = "--log error --ping-interval 0s --join-leave=false --max-session-messages-per-second 0 --max-session-commands-per-second 0".split()
MEMBERS = "--clients 1000 --publishers 10 --publishers-transport ws --size 97 --warmup 1s".split()
KIB = 1024

# Runs of swarm: the scenario with its arguments, the transports beside WebSocket, the metric, its scale and its unit.
ROWS = {
    "poll": (["chat", *MEMBERS, "--rate", "5/s"], ["poll"], ("server_cpu_per_delivery", 1e6, "µs")),
    "idle": (["idle", "--clients", "15000"], ["sse", "stream", "poll"], ("server_memory_per_client", 1 / KIB, "KiB")),
}
# Rows of benches/floor, by transport.
FLOOR_ROWS = {
    "open": {"sse": "open-events", "stream": "open-lines"},
    "flood": {"sse": "flood-events", "stream": "flood-lines"},
}
# At most: of the ratio to WebSocket, and of the value itself.
RATIO_BOUNDS = {(row, transport): 1.05 for row in FLOOR_ROWS for transport in FLOOR_ROWS[row]} | {("poll", "poll"): 4.0}
VALUE_BOUNDS = {("idle", "sse"): 0.6, ("idle", "poll"): 1.0}
# At least, requests a second.
SEND_BOUNDS = {"send": 65_000, "send-pipelined": 100_000}


def serve(program, driver):
    """A server on the first core, and its port."""
    port = free_port()
    first = {min(os.sched_getaffinity(0))}
    command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--driver", driver, "--shards", "1", *SERVER]
    server = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, first), stderr=subprocess.DEVNULL)
    probe = ["curl", "--silent", "--fail", "--output", "/dev/null", f"http://127.0.0.1:{port}/healthz"]
    for _ in range(250):
        if subprocess.run(probe, check=False).returncode == 0:
            return server, port
        if server.poll() is not None:
            break
        time.sleep(0.02)
    sys.exit(f"{program} does not listen; it has ended with {server.poll()}")


def measure(options, row, transport, round_number):
    """The metrics of one run over one transport."""
    arguments = ROWS[row][0]
    if transport == "ws":
        arguments = [word for word in arguments if word not in ("--publishers-transport", "ws")]
    server, port = serve(options.server, options.driver)
    last = str(max(os.sched_getaffinity(0)))
    scenario, *more = arguments
    command = [options.swarm, scenario, f"ws://127.0.0.1:{port}", "--transport", transport, *more]
    command += ["--duration", f"{options.seconds + (1 if scenario == 'chat' else 0):g}s", "--source", f"127.0.{1 + round_number % 250}.7"]
    command += ["--pin", last, "--server-pid", str(server.pid), "--quiet", "--json", "-"]
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        server.kill()
        server.wait()
    if run.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{run.stderr}{run.stdout[:4000]}")
    return json.loads(run.stdout)["metrics"]


def judged(record, unit):
    """Prints a record; returns it, and whether it is outside its bound."""
    key = record["row"], record["transport"]
    ratio_bound, value_bound = RATIO_BOUNDS.get(key), VALUE_BOUNDS.get(key)
    is_above = bool(ratio_bound and record["ratio"] > ratio_bound or value_bound and record["value"] > value_bound)
    bound = f"at most {ratio_bound:g} × ws" if ratio_bound else f"at most {value_bound:g} {unit}" if value_bound else ""
    cells = [f"{record['row']:6} {record['transport']:6} {record['value']:8.3f} {unit}", f"{record['ratio']:.3f} × ws", bound]
    print("   ".join([*cells, "ABOVE"] if is_above else cells), flush=True)
    return record, is_above


def side_by_side(options, row):
    """Measures a row with swarm; yields a record for each transport."""
    _, others, (metric, scale, unit) = ROWS[row]
    transports = ["ws", *others]
    rounds = []
    for number in range(options.rounds):
        order = transports[number % len(transports) :] + transports[: number % len(transports)]
        found = {transport: measure(options, row, transport, number) for transport in order}
        rounds.append(found)
        cells = [f"{transport} {found[transport][metric] * scale:.3f} {unit}" for transport in transports]
        print(f"{row:6} {'   '.join(cells)}", flush=True)
    for transport in transports:
        value = statistics.median(found[transport][metric] * scale for found in rounds)
        ratio = statistics.median(found[transport][metric] / found["ws"][metric] for found in rounds)
        record = {"row": row, "driver": options.driver, "transport": transport, "value": round(value, 3), "ratio": round(ratio, 3)}
        if row != "idle":
            record["p99_ms"] = round(statistics.median(found[transport]["p99"] for found in rounds) * 1000, 2)
        yield judged(record, unit)


def floor(options, rows):
    """The records of rows of benches/floor."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        bench = [options.floor] if options.floor else ["cargo", "bench", "--quiet", "--bench", "floor", "--"]
        command = [*bench, *rows, "--driver", options.driver, "--rounds", str(options.rounds)]
        command += ["--seconds", str(options.seconds), "--record", file.name]
        subprocess.run(command, cwd=ROOT, check=True)
        return [json.loads(line) for line in Path(file.name).read_text(encoding="utf-8").splitlines()][1:]


def streams(options, row):
    """Measures a row with benches/floor; yields a record for each transport."""
    names = FLOOR_ROWS[row]
    found = {record["row"]: record for record in floor(options, list(names.values()))}
    first = found[next(iter(names.values()))]
    yield judged({"row": row, "driver": options.driver, "transport": "ws", "value": first["websocket_us"], "ratio": 1.0}, "µs")
    for transport, name in names.items():
        record = found[name]
        cost = {"value": record["server_us"], "ratio": record["ratio"], "p99_ms": record["p99_ms"]}
        yield judged({"row": row, "driver": options.driver, "transport": transport, **cost}, "µs")


def send(options, _):
    """Publishing by request; yields its records."""
    for record in floor(options, list(SEND_BOUNDS)):
        rate, bound = record["requests_per_s"], SEND_BOUNDS[record["row"]]
        print(f"{record['row']:15} {rate:,.0f} requests/s   at least {bound:,}{'   BELOW' if rate < bound else ''}", flush=True)
        yield record, rate < bound


# How each row is measured.
MEASURE = {"open": streams, "flood": streams, "poll": side_by_side, "idle": side_by_side, "send": send}


def head(options):
    """Where and how it was measured."""
    models = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    kernel = os.uname().release.split("-")[0]
    return {"cpu": models[0] if models else "", "kernel": kernel, "rounds": options.rounds, "seconds": options.seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=str(ROOT / "target/release/stentor"))
    parser.add_argument("--swarm", default=str(ROOT / "target/release/swarm"))
    parser.add_argument("--floor", help="the benchmark's program, if cargo is not to build it")
    parser.add_argument("--driver", default="epoll")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--record", type=Path, help="a file for the records, a line of JSON each")
    parser.add_argument("rows", nargs="*", help="the rows; by default all")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(MEASURE):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    records, failures = [], 0
    for row in options.rows or MEASURE:
        for record, is_outside in MEASURE[row](options, row):
            records.append(record)
            failures += is_outside
    if options.record:
        lines = [json.dumps(record, sort_keys=True) for record in [head(options), *records]]
        options.record.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()

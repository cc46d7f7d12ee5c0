#!/usr/bin/env python3
"""Writes the tables of docs/benchmarks.md from docs/benchmarks.jsonl, which `cargo bench --bench floor -- --record` has written, and the
table of transports in README.md from docs/transports.jsonl, which `benches/transports.py --record` has written.
With --check: ends with 1 when they differ."""
import json
import os
import re
import sys

DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs")
TEN = "10 publishers with one message in flight each"

# What each row of benches/floor is, for readers.
DELIVERIES = {
    "one": "1,000 members, one message in flight at a time",
    "open": "1,000 members, 200 messages/s",
    "ten": "1,000 members, " + TEN,
    "flood": "the same with 16 in flight each",
    "large": "15,000 members, 5 messages/s",
    "one-4k": "4 KiB: 1,000 members, one message in flight at a time",
    "open-4k": "4 KiB: 1,000 members, 200 messages/s",
    "large-4k": "4 KiB: 15,000 members, 5 messages/s",
    "one-json": "JSON: 1,000 members, one message in flight at a time",
    "open-json": "JSON: 1,000 members, 200 messages/s",
    "ten-json": "JSON: " + TEN,
    "flood-json": "JSON: the same with 16 in flight each",
    "large-json": "JSON: 15,000 members, 5 messages/s",
    "rooms-plain": "1,500 rooms of 10 members, a message in each every 10 s",
    "rooms-json": "JSON: 10,000 rooms of 10 (10,000 members, each in ten), a message in each every 10 s",
}
CONDITIONS = {
    "one-two-shards": "1,000 members, one message in flight at a time, with 2 shards on one core, to 1 shard: CPU for each delivery",
    "ten-two-shards": TEN + ", with 2 shards on one core, to 1 shard: CPU for each delivery",
    "deflate": "500 bytes of JSON, compressed, to uncompressed: CPU for each delivery",
    "stuck": "100 of 1,000 members never read, 200 messages/s: p99 of the others, to none that never reads",
}


def ratio(record):
    return f"{record['ratio']:.{2 if record['ratio'] >= 0.1 else 3}f}"


def both(rows, row):
    return [rows.get((row, driver)) for driver in ("epoll", "uring")]


def deliveries(rows):
    yield "| work | floor, µs of CPU for each delivery | epoll, to the floor | io_uring, to the floor | p99, epoll / io_uring |"
    yield "|---|---|---|---|---|"
    for row, name in DELIVERIES.items():
        one, other = both(rows, row)
        if not one or not other:
            continue
        more = f"{one['p99_ms']:.1f} / {other['p99_ms']:.1f} ms"
        more += f"; one pass of the floor over all sockets takes {one['floor_pass_ms']:.1f} ms"
        if "flood" in row:
            more = f"{one['p99_ms']:.1f} / {other['p99_ms']:.1f} ms; {one['messages_per_s']:,.0f} and {other['messages_per_s']:,.0f} messages/s, none lost"
        yield f"| {name} | {one['floor_us']:.2f} | **{ratio(one)}** | **{ratio(other)}** | {more} |"


def conditions(rows):
    yield "| work | epoll | io_uring |"
    yield "|---|---|---|"
    for row, name in CONDITIONS.items():
        one, other = both(rows, row)
        if one and other:
            yield f"| {name} | **{ratio(one)}** | **{ratio(other)}** |"


TRANSPORTS = {"ws": "WebSocket", "sse": "server-sent events", "stream": "lines of JSON", "poll": "long polling"}
RESUMES = {"ws": "`since`, or the SDK", "sse": "`Last-Event-ID`, by itself", "stream": "`since`", "poll": "`since`, in every poll"}
TRANSPORT_ROWS = {
    "open": "1,000 members, 200 messages/s",
    "flood": "1,000 members, 10 publishers with 16 messages in flight each",
    "poll": "1,000 members, 5 messages/s",
    "idle": "a waiting member (15,000 of them)",
}
SEND_ROWS = {"send": "one at a time", "send-pipelined": "16 in flight on each"}


def transports(records):
    """Side by side; what was not measured yet is marked."""
    yield "| | " + " | ".join(TRANSPORTS.values()) + " |"
    yield "|---" * (len(TRANSPORTS) + 1) + "|"
    yield "| a client resumes with | " + " | ".join(RESUMES[it] for it in TRANSPORTS) + " |"
    if not records:
        yield "| CPU and memory | " + " | ".join("not measured yet" for _ in TRANSPORTS) + " |"
        return
    head, *rows = records
    found = {(row["row"], row.get("transport")): row for row in rows}
    for row, name in TRANSPORT_ROWS.items():
        cells = []
        for transport in TRANSPORTS:
            record = found.get((row, transport))
            if not record:
                cells.append("")
            elif row == "idle":
                cells.append(f"{record['value']:.2f} KiB")
            elif transport == "ws":
                cells.append(f"{record['value']:.2f} µs")
            else:
                cells.append(f"**{record['ratio']:.2f}** × WebSocket")
        if any(cells):
            yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    rates = [f"{found[row, None]['requests_per_s']:,.0f}/s {name}" for row, name in SEND_ROWS.items() if (row, None) in found]
    if rates:
        yield f"Messages by `POST /send` on one core, into rooms without members, on 32 connections: {', '.join(rates)}."
    yield f"Medians of {head['rounds']} rounds of {head['seconds']:g} s; {head['cpu']}, Linux {head['kernel']}."


def write_table(path, name, lines, is_check):
    """Writes a table between its marks; ends with 1 instead when it is out of date and only checked."""
    with open(path, encoding="utf-8") as file:
        before = file.read()
    begin = rf"(<!-- written by tests/docs/benchmarks.py: {name} -->\n)"
    table = "\n".join(lines) + "\n"
    after, count = re.subn(begin + r"(?:.*\n)*?(<!-- end -->)", lambda it: it[1] + table + it[2], before)
    if count != 1:
        sys.exit(f"{path}: the marks around the table of {name} are missing")
    if is_check and before != after:
        sys.exit(f"{path} is out of date: python3 tests/docs/benchmarks.py")
    if not is_check:
        with open(path, "w", encoding="utf-8") as file:
            file.write(after)


def lines_of(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    is_check = sys.argv[1:] == ["--check"]
    readme = os.path.join(os.path.dirname(DOCS), "README.md")
    write_table(readme, "transports", transports(lines_of(os.path.join(DOCS, "transports.jsonl"))), is_check)
    with open(os.path.join(DOCS, "benchmarks.jsonl"), encoding="utf-8") as file:
        head, *records = [json.loads(line) for line in file if line.strip()]
    rows = {(record["row"], record["driver"]): record for record in records}
    unknown = {row for row, _ in rows} - set(DELIVERIES) - set(CONDITIONS) - {"idle", *SEND_ROWS}
    if unknown:
        sys.exit(f"rows without a name here: {', '.join(sorted(unknown))}")
    path = os.path.join(DOCS, "benchmarks.md")
    with open(path, encoding="utf-8") as file:
        before = after = file.read()
    machine = f"Medians of {head['rounds']} rounds of {head['seconds']:g} s; {head['cpu']}, Linux {head['kernel']}."
    for name, lines in [("deliveries", deliveries(rows)), ("conditions", conditions(rows))]:
        begin = rf"(<!-- written by tests/docs/benchmarks.py: {name} -->\n)"
        table = "\n".join(lines) + "\n"
        if name == "deliveries":
            table = machine + "\n\n" + table
        after, count = re.subn(begin + r"(?:.*\n)*?(<!-- end -->)", lambda it: it[1] + table + it[2], after)
        if count != 1:
            sys.exit(f"{path}: the marks around the table of {name} are missing")
    if is_check:
        sys.exit(0 if before == after else f"{path} is out of date: python3 tests/docs/benchmarks.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(after)


main()

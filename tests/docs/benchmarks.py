#!/usr/bin/env python3
"""Writes the tables of docs/benchmarks.md from docs/benchmarks.jsonl, which `cargo bench --bench floor -- --record` has written.
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


def main():
    with open(os.path.join(DOCS, "benchmarks.jsonl"), encoding="utf-8") as file:
        head, *records = [json.loads(line) for line in file if line.strip()]
    rows = {(record["row"], record["driver"]): record for record in records}
    unknown = {row for row, _ in rows} - set(DELIVERIES) - set(CONDITIONS) - {"idle"}
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
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if before == after else f"{path} is out of date: python3 tests/docs/benchmarks.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(after)


main()

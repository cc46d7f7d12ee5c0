#!/usr/bin/env python3
"""Builds of the server side by side: the first core serves them all at once, the last one loads each alike.

    benches/side_by_side.py --old PATH [--rounds 6] [--seconds 8] [--driver epoll] [--old-arguments "…"] [-- SWARM ARGUMENTS]

For rows that leave the processor idle most of the time, such as many small rooms with a message now and then: their cost
is that of cold caches, which differs from one moment to the next by more than two builds do. So both builds run in the
same moments. Prints each round's CPU time per delivery and ratio, and the median of the ratios with its 95 % interval
(of the order statistics); ends with 1 when the median is above --bound.
"""

import argparse
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS_OF_TEN = "--rooms 1500 --clients 15000 --rate 150/s --size 64 --connect-rate 5000/s".split()

# Seconds that a swarm goes on beside the measured ones: until the last one has begun, and after the end.
MARGIN_S = 6


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


class Build:
    """A running server and the swarm that loads it."""

    def __init__(self, program, arguments, driver, load, seconds, source):
        core = {min(os.sched_getaffinity(0))}
        last = {max(os.sched_getaffinity(0))}
        port = free_port()
        command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--driver", driver, "--shards", "1", *arguments]
        self.server = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, core), stderr=subprocess.DEVNULL)
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if self.server.poll() is not None:
                sys.exit(f"{program} has ended with {self.server.returncode}")
            time.sleep(0.02)
        url = f"ws://127.0.0.1:{port}/ws/{{name}}?room={{room}}"
        swarm = [ROOT / "target/release/swarm", "chat", url, "--source", source, "--duration", f"{seconds}s", *load]
        self.swarm = subprocess.Popen(
            swarm, preexec_fn=lambda: os.sched_setaffinity(0, last), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def await_load(self):
        """Reads the swarm's lines until all its clients are there and messages flow."""
        self.output = ""
        while " running " not in self.output:
            line = self.swarm.stdout.readline()
            self.output += line
            if not line:
                sys.exit(f"the swarm has failed:\n{self.output}")

    def cpu_ns(self):
        tasks = Path(f"/proc/{self.server.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def end(self):
        """Deliveries per second, as the swarm has seen them."""
        output = self.output + self.swarm.communicate()[0]
        self.server.kill()
        self.server.wait()
        received = re.search(r"received +[\d,]+ +([\d,]+)/s", output)
        if self.swarm.returncode or not received:
            sys.exit(f"the swarm has failed:\n{output}")
        return int(received[1].replace(",", ""))


def play(programs, options, load, round_number):
    """CPU time of each build per delivery, in microseconds."""
    running = {}
    order = list(programs) if round_number % 2 else list(reversed(programs))
    for index, name in enumerate(order):
        program, arguments = programs[name]
        source = f"127.0.{1 + round_number % 250}.{10 + 10 * index}"
        running[name] = Build(program, arguments, options.driver, load, options.seconds + MARGIN_S, source)
    for build in running.values():
        build.await_load()
    before = {name: build.cpu_ns() for name, build in running.items()}
    begun = time.monotonic()
    time.sleep(options.seconds)
    elapsed = time.monotonic() - begun
    after = {name: build.cpu_ns() for name, build in running.items()}
    rates = {name: build.end() for name, build in running.items()}
    return {name: (after[name] - before[name]) / 1000 / elapsed / rates[name] for name in programs}


def interval(values):
    """The 95 % interval of the median, by the binomial distribution of ranks."""
    values, count = sorted(values), len(values)
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return values[rank], values[count - 1 - rank]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", required=True, help="the older build")
    parser.add_argument("--new", default=str(ROOT / "target/release/stentor"), help="the newer build")
    parser.add_argument("--old-arguments", default="--log error --ping-interval 0s")
    parser.add_argument("--new-arguments", default="--log error --ping-interval 0s")
    parser.add_argument("--driver", default="epoll")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--bound", type=float, default=1.03)
    parser.add_argument("load", nargs="*", help="arguments of swarm chat; by default 1,500 rooms of ten")
    options = parser.parse_args()
    programs = {
        "old": (options.old, options.old_arguments.split()),
        "new": (options.new, options.new_arguments.split()),
    }
    ratios = []
    for round_number in range(options.rounds):
        cost = play(programs, options, options.load or ROOMS_OF_TEN, round_number)
        ratios.append(cost["new"] / cost["old"])
        print(f"old {cost['old']:6.2f} µs   new {cost['new']:6.2f} µs   {ratios[-1]:.3f}", flush=True)
    low, high = interval(ratios)
    median = statistics.median(ratios)
    print(f"ratio {median:.3f}   95 % interval {low:.3f} to {high:.3f}   {options.rounds} rounds, {options.driver}")
    sys.exit(median > options.bound)


if __name__ == "__main__":
    main()

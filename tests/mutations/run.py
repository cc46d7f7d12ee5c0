#!/usr/bin/env python3
"""Breaks the server in one place after the other, and has the simulator find out.

    tests/mutations/run.py                 every mutation
    tests/mutations/run.py lost-wake-up    these

Works on a copy of HEAD in .cache/mutations. Each mutation is a literal text that stands once in a file, and what it is
replaced with; one that does not fit any more is an error, not a pass. Prints a table: how many of the fixed seeds fail, the
first of them, and how; a mutation that survives them gets a minute of new seeds. Ends with 1 if any survives that too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "mutations"
TREE = CACHE / "tree"
SEEDS = 150
CARGO = os.environ.get("CARGO", "cargo").split()

# Name, what is broken, file, text, what it becomes.
MUTATIONS = [
    ("lost-wake-up", "a shard that gets publications is not woken", "src/shard/mesh.rs",
     "peer.touched |= peer.down.send(message.clone());", "peer.down.send(message.clone());"),
    ("off-by-one-cursor", "a member's cursor stops one byte short", "src/shard/fanout.rs",
     "let to = from.plus(len);", "let to = from.plus(len.saturating_sub(1));"),
    ("last-member", "a sweep leaves out the last member of its circle", "src/shard/fanout.rs",
     "        audience.due = count;\n", "        audience.due = count.saturating_sub(1).max(1);\n"),
    ("doubled-frame", "after a short write the frame begins again", "src/shard/output.rs",
     "let progress = self.advance(seat, len);", "let progress = self.advance(seat, if full { 0 } else { len });"),
    ("torn-frame", "who skips does not get the rest of the frame that had begun", "src/shard/output.rs",
     "conn.outbox.prepend(&std::mem::take(&mut missed.rest));", ""),
    ("ghost-member", "a connection that breaks stays in its rooms", "src/shard/endings.rs",
     "how: HowToClose, reason: CloseReason) {\n        self.leave_rooms(key);\n",
     "how: HowToClose, reason: CloseReason) {\n"),
    ("full-ring", "what finds a ring full is dropped", "src/shard/mesh.rs",
     "            Err(message) => {\n                self.waiting.push_back(message);\n                false\n",
     "            Err(_) => {\n                false\n"),
    ("swapped-positions", "what waits for a ring is overtaken", "src/shard/mesh.rs",
     "        if !self.waiting.is_empty() {\n            self.waiting.push_back(message);\n            return false;\n        }\n", ""),
    ("forgotten-resume", "who was not read from is not read from again", "src/shard/mod.rs",
     "                self.resumed.push(key);\n", ""),
    ("dead-timer", "a closing handshake may last for ever", "src/shard/endings.rs",
     "        self.wheel.set(key.index(), self.now + self.options.close_timeout);\n        self.flush_later(key);\n    }\n\n    /// Takes nothing more in",
     "        self.wheel.cancel(key.index());\n        self.flush_later(key);\n    }\n\n    /// Takes nothing more in"),
    ("missing-pong", "a ping that comes while others are unanswered is forgotten", "src/conn/outbox.rs",
     "        self.content().pong = Some(payload.into());\n", "        let _ = payload;\n"),
    ("wrong-skip-count", "of two gaps only the last is told of", "src/conn/outbox.rs",
     "skipped.count += more.count;", "skipped.count = more.count;"),
    ("moved-member", "who takes the seat of one that leaves is passed over", "src/shard/fanout.rs",
     "            audience.visit_again(place);\n            self.enqueue(seat.audience);\n", ""),
    ("newcomer", "a newcomer takes another's turn in the sweep", "src/shard/fanout.rs",
     "        audience.due += usize::from(audience.due > 0);\n", ""),
    ("frame-after-close", "what waits to be told comes behind the Close", "src/conn/outbox.rs",
     "        (content.pong, content.skipped) = (None, None);\n", ""),
    ("stuck-writable", "a socket that has room again is not written to", "src/shard/mod.rs",
     "            self.catch_up_conflated(key, seat);\n        }\n        self.flush_later(key);\n",
     "            self.catch_up_conflated(key, seat);\n        }\n"),
    ("slow-members", "nobody is ever too slow", "src/shard/fanout.rs",
     "if self.behind(member) > log_bytes_max {", "if log_bytes_max == 0 {"),
    ("gap-in-the-past", "who resumes does not get the first that it has missed", "src/chat/history.rs",
     "        Some(self.kept.range(first..).cloned().collect())\n",
     "        Some(self.kept.range(first..).skip(1).cloned().collect())\n"),
    ("past-twice", "who resumes gets the last that it has had once more", "src/chat/history.rs",
     "        Some(self.kept.range(first..).cloned().collect())\n",
     "        Some(self.kept.range(first.saturating_sub(1)..).cloned().collect())\n"),
    ("late-verdict", "who is on its way out comes in when the back end says so", "src/shard/mod.rs",
     "        if !self.is_open(conn) {\n            return;\n        }\n        let Some(client) = self.client_mut(conn)",
     "        let Some(client) = self.client_mut(conn)"),
    ("forgotten-room", "a room is forgotten when the last one leaves", "src/shard/home.rs",
     "Some(home) if room.options.history_count_max > 0 => {", "Some(home) if room.options.history_count_max > 5000 => {"),
    ("lost-position", "who has missed more than three cannot resume", "src/chat/history.rs",
     "        let first = self.kept.len().checked_sub(missed)?;\n",
     "        let first = self.kept.len().checked_sub(missed).filter(|_| missed <= 3)?;\n"),
    ("absent-member", "who comes in is not among those who are there", "src/shard/home.rs",
     "            home.presence.join(member, told);\n", "            drop((member, told));\n"),
    ("short-read-means-empty", "an end that was told of together with the last bytes is not read", "src/driver/event_loop.rs",
     "                if read_closed {\n                    slot.set_read_closed();\n                }\n", ""),
    ("two-writes", "a connection in two rooms has two writes under way", "src/shard/output.rs",
     "if self.fanout.is_shared(seat) && !self.claim(seat) => {", "if self.fanout.is_shared(seat) && !self.claim(seat) && false => {"),
]


def mutate(file, text, becomes):
    path = TREE / file
    source = path.read_text()
    if source.count(text) != 1:
        sys.exit(f"{file} has this text {source.count(text)} times, not once:\n{text}")
    path.write_text(source.replace(text, becomes))


def simulate(**variables):
    environment = os.environ | {"CARGO_TARGET_DIR": str(CACHE / "target"), "RUST_BACKTRACE": "0"} | variables
    command = [*CARGO, "test", "-q", "--locked", "--no-default-features", "--test", "sim", "the_server", "--", "--nocapture"]
    done = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def judge(name, file, text, becomes):
    """How it is found, as the cells of a row; None: it is not."""
    subprocess.run(["git", "checkout", "-q", "--", "."], cwd=TREE, check=True)
    mutate(file, text, becomes)
    code, output = simulate(STENTOR_SIM_SURVEY=str(SEEDS))
    survey = re.search(r"(\d+) of \d+ seeds fail\n(?:seed (\d+): (.*))?", output)
    if code != 0 or survey is None:
        sys.exit(f"{name} does not build:\n{output}")
    if survey[2] is not None:
        return f"{survey[1]} of {SEEDS}", survey[2], survey[3]
    code, output = simulate(STENTOR_SIM_SECONDS="60")
    found = re.search(r"^(.*)\nSTENTOR_SIM_SEED=(\d+)", output, re.M)
    return None if code == 0 or found is None else ("a minute of new seeds", found[2], found[1])


def main():
    chosen = [mutation for mutation in MUTATIONS if not sys.argv[1:] or mutation[0] in sys.argv[1:]]
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    if not TREE.exists():
        subprocess.run(["git", "worktree", "add", "-q", "--detach", TREE, "HEAD"], cwd=ROOT, check=True)
    subprocess.run(["git", "checkout", "-q", "--force", "--detach", subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()], cwd=TREE, check=True)
    survivors = 0
    print("| mutation | what is broken | seeds that fail | first seed | what it says |\n|---|---|---|---|---|")
    for name, what, file, text, becomes in chosen:
        cells = judge(name, file, text, becomes)
        survivors += cells is None
        print("| " + " | ".join([name, what, *(cells or ("**none**", "", ""))]) + " |", flush=True)
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()

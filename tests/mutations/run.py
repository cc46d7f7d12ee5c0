#!/usr/bin/env python3
"""Mutation tests: breaks the server in one place at a time, and lets the simulator find it.

    tests/mutations/run.py                 every mutation
    tests/mutations/run.py lost-wake-up    these
    tests/mutations/run.py --check         only whether each mutation fits, without building

Works on a copy of HEAD in .cache/mutations. Each mutation is a literal text that occurs once in a file, and its
replacement; a mutation that does not fit is an error, not a pass. Prints a table: how many of the fixed seeds fail, the
first of them, and how; a mutation that survives them gets a minute of new seeds, and one that survives those the unit
tests. Ends with 1 if any survives all.
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

# Name, what is broken, file, text, replacement.
MUTATIONS = [
    ("lost-wake-up", "a shard that gets publications is not woken", "src/shard/mesh.rs",
     "peer.touched |= peer.down.send(message.clone());", "peer.down.send(message.clone());"),
    ("off-by-one-cursor", "a member's cursor stops one byte short", "src/shard/fanout/sweep.rs",
     "let to = from.plus(len);", "let to = from.plus(len.saturating_sub(1));"),
    ("last-member", "a pass leaves out the last member", "src/shard/fanout/audience.rs",
     "        self.due = count;\n", "        self.due = count.saturating_sub(1).max(1);\n"),
    ("doubled-frame", "after a short write the frame begins again", "src/shard/output.rs",
     "let caught_up = self.advance(sub, len);", "let caught_up = self.advance(sub, if full { 0 } else { len });"),
    ("partial-frame", "a member that skips does not get the rest of the frame that had begun", "src/shard/slow.rs",
     "conn.outbox.prepend(&missed.rest);", "let _ = conn;"),
    ("ghost-member", "a connection that breaks stays in its rooms", "src/conn/mod.rs",
     "Change { leaves: true, flush: false, close: Some(how), timer: None }",
     "Change { leaves: false, flush: false, close: Some(how), timer: None }"),
    ("full-ring", "a message that finds a ring full is dropped", "src/shard/mesh.rs",
     "            Err(message) => {\n                self.waiting.push_back(message);\n                false\n",
     "            Err(_) => {\n                false\n"),
    ("swapped-positions", "a message that waits for a ring is overtaken", "src/shard/mesh.rs",
     "        if !self.waiting.is_empty() {\n            self.waiting.push_back(message);\n            return false;\n        }\n", ""),
    ("forgotten-resume", "a connection that was not read from is not read from again", "src/shard/input.rs",
     "                self.resumed.push(key);\n", ""),
    ("dead-timer", "a closing handshake may last for ever", "src/conn/mod.rs",
     "        self.ping_at = Time::NEVER;\n        Change { leaves: true, flush: true, close: None, timer: Some(options.close_timeout) }\n    }\n\n    /// Takes nothing more in",
     "        self.ping_at = Time::NEVER;\n        Change { leaves: true, flush: true, close: None, timer: Some(options.close_timeout * 10_000) }\n    }\n\n    /// Takes nothing more in"),
    ("missing-pong", "a ping that comes while others are unanswered is forgotten", "src/conn/outbox.rs",
     "        self.content().pong = Some(payload.into());\n", "        let _ = payload;\n"),
    ("wrong-skip-count", "of two gaps only the last is announced", "src/session/slow.rs",
     "skipped.count += count;", "skipped.count = count;"),
    ("moved-member", "a member that takes the index of one that leaves is passed over", "src/shard/fanout/audience.rs",
     "            self.visit_again(member_index);\n        }\n        (Some(sub), behind)", "        }\n        (Some(sub), behind)"),
    ("new-member", "a new member takes another's turn in the sweep", "src/shard/fanout/audience.rs",
     "        self.due += usize::from(self.due > 0);\n", ""),
    ("frame-after-close", "a pending notice comes behind the Close", "src/conn/outbox.rs",
     "        (content.pong, content.notice) = (None, false);\n", ""),
    ("stuck-writable", "a socket that is writable again is not written to", "src/shard/slow.rs",
     "        self.flush_later(key);\n    }\n\n    /// A member has fallen", "    }\n\n    /// A member has fallen"),
    ("slow-members", "no member is ever too slow", "src/shard/fanout/audience.rs",
     "if self.behind(member) > log_bytes_max {", "if log_bytes_max == 0 {"),
    ("gap-in-the-history", "a recovering client does not get the first publication that it has missed", "src/chat/history.rs",
     "        Some(self.run(first..))\n", "        Some(self.run((first + 1).min(self.kept.len())..))\n"),
    ("history-twice", "a recovering client gets its last publication once more", "src/chat/history.rs",
     "        Some(self.run(first..))\n", "        Some(self.run(first.saturating_sub(1)..))\n"),
    ("late-decision", "a closing connection stays a session, which the auth backend may accept", "src/conn/mod.rs",
     "        self.decoder = Decoder::default();\n        self.ping_at = Time::NEVER;\n        Change { leaves: true,",
     "        self.decoder = Decoder::default();\n        self.ping_at = Time::NEVER;\n        Change { leaves: false,"),
    ("forgotten-room", "a room is forgotten when the last one leaves", "src/room/keep.rs",
     "if home.options.history_count_max == 0 {", "if home.options.history_count_max <= 5000 {"),
    ("lost-position", "a client that has missed more than three publications cannot recover", "src/chat/history.rs",
     "        let first = self.kept.len().checked_sub(missed)?;\n",
     "        let first = self.kept.len().checked_sub(missed).filter(|_| missed <= 3)?;\n"),
    ("absent-member", "a joining client is missing from the presence", "src/room/home.rs",
     "        self.presence.join(member, few && announced);\n", "        drop((member, few && announced));\n"),
    ("short-read-means-empty", "an end that was reported together with the last bytes is not read", "src/driver/event_loop.rs",
     "                if read_closed {\n                    slot.set_read_closed();\n                }\n", ""),
    ("two-writes", "a connection in two rooms has two writes in flight", "src/shard/output.rs",
     "if self.fanout.is_shared(sub) && !self.claim(sub) => {", "if self.fanout.is_shared(sub) && !self.claim(sub) && false => {"),
    # Queued commands and parked drafts.
    ("unsubscribe-overtakes", "`unsubscribe` does not wait for the reply to `subscribe`", "src/session/json.rs",
     "let number = joining.map_or(0, |joining| joining.number);", "let number = joining.map_or(0, |_| 0);"),
    ("busy-wait", "a shard turns and turns while a command waits for a room", "src/session/mod.rs",
     "&& !self.is_in_flight(json.waits_for),", "&& !self.is_in_flight(json.waits_for / u32::MAX),"),
    ("counted-again", "a queued command counts against the limit each time that it is offered", "src/session/json.rs",
     "        if self.must_wait(&method) {\n            return Taken::Later;\n        }\n        let outcome = match self.limit_command(ctx, &method) {",
     "        let limited = self.limit_command(ctx, &method);\n        if self.must_wait(&method) {\n            return Taken::Later;\n        }\n        let outcome = match limited {"),
    ("sleeping-drafts", "a completed draft wakes none of the parked ones", "src/shard/exchange.rs",
     "while let Some(parked) = self.rooms.next_parked(id) {", "while room.is_empty() && let Some(parked) = self.rooms.next_parked(id) {"),
    ("dropped-draft", "a draft that waits is dropped when its session ends", "src/shard/exchange.rs",
     "            self.request_home(&name, Request::Publish { draft: parked.draft, reply_to });\n",
     "            if self.sessions.get(parked.session).is_some() {\n                self.request_home(&name, Request::Publish { draft: parked.draft, reply_to });\n            }\n"),
    ("lost-acknowledgement", "a home gets no credit for what was swept", "src/shard/exchange.rs",
     "            self.request_home(&room, Request::Swept { bytes });\n", "            let _ = (room, bytes);\n"),
    ("lost-budget", "the budget of a turn is never renewed", "src/shard/mod.rs",
     "        self.budget = Budget::TURN;\n", ""),
    ("masked-twice", "a queued message is kept unmasked", "src/shard/input.rs",
     "                ws::undo(&mut input[..consumed]);\n", ""),
    # Ends of streams.
    ("overtaken-input", "the end of a stream overtakes queued input", "src/conn/mod.rs",
     "        self.ended = true;\n        if self.has_waiting_input() {", "        self.ended = true;\n        if self.has_waiting_input() && now == Time::NEVER {"),
    ("endless-stream", "the end of a stream is forgotten when input waits", "src/conn/mod.rs",
     "        self.ended = true;\n        if self.has_waiting_input() {", "        self.ended = !self.has_waiting_input();\n        if self.has_waiting_input() {"),
    ("another-timer", "a session's timer ends a stream whose input waits", "src/conn/mod.rs",
     "State::Open | State::Waiting if self.ended && now >= self.ping_at => {", "State::Open | State::Waiting if self.ended => {"),
    ("unread-rest", "what a full read has left in the socket is not read", "src/driver/event_loop.rs",
     "                    if again {\n                        self.queue_read(key);\n                        return Ok(());", "                    if again {\n                        return Ok(());"),
    # Engines.
    ("short-page", "a page is merged without its last publication", "src/room/join.rs",
     "reaches.then(|| page.iter().cloned().chain(newer).collect())",
     "reaches.then(|| page.iter().take(page.len().saturating_sub(1)).cloned().chain(newer).collect())"),
    ("page-beyond-the-top", "a page contains publications that the members have not received yet", "src/room/join.rs",
     "partition_point(|publication| publication.offset() <= top)", "partition_point(|publication| publication.offset() < u64::MAX)"),
    ("incomplete-page", "a page that does not reach the tail is taken for complete", "src/room/join.rs",
     "newer.first().map_or(end >= top, |first| first.offset() == end + 1)", "newer.first().map_or(end >= top, |first| first.offset() > end)"),
    ("ghost-in-waiting", "a client that left while it waited for a page joins with it", "src/room/mod.rs",
     "                    home.give_up_joins(|_, member| member.person.client == client);\n", ""),
    ("twice-ordered", "a publication is passed to the members twice", "src/room/mod.rs",
     "            let output = Output::Publication { home: key, room, publication, positioned, listeners, forms };\n",
     "            let (again, name) = (Arc::clone(&publication), Arc::clone(&room));\n            self.outputs.push_back(Output::Publication { home: key, room: name, publication: again, positioned, listeners, forms });\n            let output = Output::Publication { home: key, room, publication, positioned, listeners, forms };\n"),
    ("false-receipt", "a draft that the engine could not take is acknowledged", "src/session/replies.rs",
     "            PublishOutcome::Temporary => ctx.effects.error(id, ErrorCode::Internal),\n",
     "            PublishOutcome::Temporary => ctx.effects.send(|out| json::reply_into(out, id, \"publish\", b\"{}\")),\n"),
    ("new-epoch", "an evicted history loses its epoch", "src/room/keep.rs",
     "            self.counts.evicted += home.history.clear() as u64;\n",
     "            self.counts.evicted += home.history.clear() as u64;\n            let epoch = crate::chat::Epoch::from_random(1);\n            home.history = crate::chat::History::new(crate::chat::Position { epoch, ..home.history.top() });\n"),
    # Bounds and counts.
    ("bomb", "inflating does not stop at the bound", "src/ws/deflate.rs",
     "        if out.len() > max {\n", "        if out.len() > max.max(1 << 22) {\n"),
    ("shared-limiter", "all rooms with a limit share one budget", "src/session/limits.rs",
     "limiters.iter().position(|it| it.room == *room)", "limiters.iter().position(|it| !it.room.is_empty() || it.room == *room)"),
    ("endless-flood", "a client that keeps exceeding its limit is never disconnected", "src/chat/rate.rs",
     "let is_enough = self.throttled > limit.burst.max(THROTTLED_MIN);", "let is_enough = self.throttled == u32::MAX && limit.burst < THROTTLED_MIN;"),
    ("one-shard-counts", "only one shard's members are counted", "src/shard/exchange.rs",
     "counting.sum.members += backlog.members;", "counting.sum.members = backlog.members;"),
    # The plain protocol over HTTP.
    ("dropped-key", "a message's idempotency key does not reach the engine", "src/session/http.rs",
     "let idempotency_key = idempotency_key.map(Box::new);", "let idempotency_key = idempotency_key.map(Box::new).filter(|_| false);"),
    ("silent-gap", "the answer to a poll does not say that messages are missing", "src/session/http.rs",
     "let gap = recovery.recovered == Some(false);", "let gap = recovery.recovered == Some(false) && !recovery.publications.is_empty();"),
    ("poll-position", "a poll's answer names the position at which it joined", "src/session/http.rs",
     "let Some(position) = position.or(poll.top) else { return };", "let Some(position) = poll.top.or(position) else { return };"),
    ("chunk-header", "a chunk of 4 KiB or more has the size of a shorter one in its header", "src/http/body.rs",
     "    out.extend_from_slice(format!(\"{len:x}\\r\\n\").as_bytes());\n", "    out.extend_from_slice(format!(\"{:x}\\r\\n\", len.min(4095)).as_bytes());\n"),
    ("absent-poller", "a client is no member between two polls", "src/session/mod.rs",
     "lease: self.poll().map(|_| ctx.options.poll_timeout + POLL_PAUSE_MAX),", "lease: self.poll().filter(|poll| poll.due() == Time::ZERO).map(|_| ctx.options.poll_timeout + POLL_PAUSE_MAX),"),
    ("forgotten-poller", "a room is forgotten though a client of it is between two polls", "src/room/home.rs",
     "            && self.leases.is_none()\n", ""),
    ("early-continue", "an interim answer comes before the answers to earlier requests", "src/shard/publish.rs",
     "let limit = if expects_continue == Ok(true) { 1 } else { POSTS_IN_FLIGHT_MAX };", "let limit = POSTS_IN_FLIGHT_MAX;"),
    # Identities.
    ("early-push", "publications come before the reply to `connect`", "src/shard/output.rs",
     "if session.is_none_or(Session::is_confirmed) {", "if session.is_none_or(|it| it.is_confirmed() || !it.is_confirmed()) {"),
    ("eternal-identity", "an identity never expires", "src/session/commands.rs",
     "        self.expire_at(expires_in.map_or(Time::NEVER, |time| ctx.now + time + EXPIRY_GRACE));\n        let positions",
     "        self.expire_at(expires_in.map_or(Time::NEVER, |_| Time::NEVER));\n        let positions"),
    ("eternal-subscription", "a subscription never expires", "src/session/clock.rs",
     "let expires = expires_in.map_or(Time::NEVER, |time| now + time + EXPIRY_GRACE);", "let expires = expires_in.map_or(Time::NEVER, |_| Time::NEVER);"),
    ("foreign-token", "another user's token refreshes an identity", "src/session/commands.rs",
     "        if *identity.user != *self.person.user() {\n", "        if identity.user.is_empty() {\n"),
    ("lost-info", "a token's info about a client in a room is not shown", "src/session/mod.rs",
     "        let member = Member::new(Arc::clone(&self.person), info);\n",
     "        let member = Member::new(Arc::clone(&self.person), info.filter(|_| false));\n"),
    ("always-present", "a client that is not to be listed as present is listed", "src/room/home.rs",
     "if !presence.unwrap_or(self.options.presence) {", "if !self.options.presence && presence.is_none() {"),
    ("input-while-paused", "what arrives after a connection was paused is dropped", "src/driver/event_loop.rs",
     "                shard.received(key, bytes);\n                if !shard.may_read(key) {\n",
     "                if shard.may_read(key) {\n                    shard.received(key, bytes);\n                }\n                if !shard.may_read(key) {\n"),
]


def occurrences(tree, file, text):
    """How often a file of a tree has a text."""
    path = tree / file
    return path.read_text().count(text) if path.exists() else 0


def check():
    """Whether each mutation's text occurs exactly once in the working tree; prints those that do not."""
    misfits = [(name, file, occurrences(ROOT, file, text)) for name, _, file, text, _ in MUTATIONS]
    misfits = [misfit for misfit in misfits if misfit[2] != 1]
    for name, file, count in misfits:
        print(f"{name}: its text occurs {count} times in {file}, not once")
    return not misfits


def mutate(file, text, replacement):
    path = TREE / file
    if (count := occurrences(TREE, file, text)) != 1:
        sys.exit(f"{file} has this text {count} times, not once:\n{text}")
    path.write_text(path.read_text().replace(text, replacement))


def test(arguments, **variables):
    environment = os.environ | {"CARGO_TARGET_DIR": str(CACHE / "target"), "RUST_BACKTRACE": "0"} | variables
    command = [*CARGO, "test", "-q", "--locked", "--no-default-features", *arguments]
    done = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def simulate(**variables):
    return test(["--test", "sim", "the_server", "--", "--nocapture"], **variables)


def run(name, file, text, replacement):
    """How a mutation is found, as the cells of a row; None: it is not."""
    subprocess.run(["git", "checkout", "-q", "--", "."], cwd=TREE, check=True)
    mutate(file, text, replacement)
    code, output = simulate(STENTOR_SIM_SURVEY=str(SEEDS))
    survey = re.search(r"(\d+) of \d+ seeds fail\n(?:seed (\d+): (.*))?", output)
    if code != 0 or survey is None:
        sys.exit(f"{name} does not build:\n{output}")
    if survey[2] is not None:
        return f"{survey[1]} of {SEEDS}", survey[2], survey[3][:100]
    code, output = simulate(STENTOR_SIM_SECONDS="60")
    found = re.search(r"^(.*)\nSTENTOR_SIM_SEED=(\d+)", output, re.M)
    if code != 0 and found is not None:
        return "a minute of new seeds", found[2], found[1][:100]
    _, output = test(["--lib"])
    failed = re.search(r"^---- (\S+) stdout ----$", output, re.M)
    return None if failed is None else ("none; a unit test", "", f"`{failed[1]}`")


def main():
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if check() else 1)
    chosen = [mutation for mutation in MUTATIONS if not sys.argv[1:] or mutation[0] in sys.argv[1:]]
    CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
    if not TREE.exists():
        subprocess.run(["git", "worktree", "add", "-q", "--detach", TREE, "HEAD"], cwd=ROOT, check=True)
    subprocess.run(["git", "checkout", "-q", "--force", "--detach", subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()], cwd=TREE, check=True)
    survivors = 0
    print("| mutation | what is broken | seeds that fail | first seed | what it says |\n|---|---|---|---|---|")
    for name, what, file, text, replacement in chosen:
        cells = run(name, file, text, replacement)
        survivors += cells is None
        print("| " + " | ".join([name, what, *(cells or ("**none**", "", ""))]) + " |", flush=True)
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()

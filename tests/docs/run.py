#!/usr/bin/env python3
"""Runs the shell blocks of the documents: run.py [--as-written] STENTOR SWARM [FILE…]

A block is fenced with ```sh. The rest of that line may mark it:

    ignore="REASON"   is not run; the reason is printed
    server            its last command is a Stentor on port 8080, which serves the blocks behind it; server=PORT: any other server
    seconds=N         may take so long, not 60

A block of any language with file=NAME is written to that file. A comment <!-- run: COMMAND --> is a block that readers do not see.

The blocks of one document run one after the other in one folder, with bash, which ends at the first command that fails. Ports
are replaced by free ones; a program that `cargo run` would build, and `$(pidof stentor)`, by what the test has; clients and durations of a load test by
few and short ones, unless the blocks run as written. A block that needs a server on port 8080, and neither has nor starts one, gets one with the default configuration. What else a
document takes for granted is done by a script in before/, named after it.
"""
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "deploy/README.md", "loadtest/README.md"]
SECONDS = 60
AS_WRITTEN_SECONDS = 600
SMALL = [(r"--clients \d+", "--clients 40"), (r"--duration \S+", "--duration 1s"), (r"--workers \d+", "--workers 1"),
         (r"(swarm run loadtest/docs/storm\.toml)(?!.*--clients)", r"\1 --clients 40")]


class Block:
    """A fenced block, or a hidden command."""

    def __init__(self, line, language, marks, text):
        self.line, self.language, self.marks, self.text = line, language, marks, text

    def title(self):
        """Its first command."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return (lines or [""])[0][:90]


def blocks(path):
    """The blocks of a document, in order."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    index = 0
    while index < len(lines):
        line, start = lines[index], index + 1
        index += 1
        hidden = re.match(r"<!-- run: (.*) -->$", line)
        fence = re.match(r"( *)```(\w+)(.*)$", line)
        if hidden:
            yield Block(start, "sh", {}, hidden[1])
        elif fence:
            body = []
            while index < len(lines) and lines[index].strip() != "```":
                body.append(lines[index].removeprefix(fence[1]))
                index += 1
            index += 1
            marks = dict((mark.split("=", 1) + [""])[:2] for mark in shlex.split(fence[3]))
            yield Block(start, fence[2], marks, "\n".join(body) + "\n")
        elif line.startswith("```"):
            while index < len(lines) and lines[index].strip() != "```":
                index += 1
            index += 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Document:
    """One document: its folder, its ports, and the servers that its blocks have started."""

    def __init__(self, name, stentor, swarm, as_written):
        self.name, self.stentor, self.as_written = name, stentor, as_written
        self.folder = tempfile.mkdtemp(prefix="stentor-docs-")
        self.ports = {port: free_port() for port in ("8080", "8081", "8082", "8000")}
        self.servers = {}
        tools = os.path.join(self.folder, ".bin")
        os.mkdir(tools)
        os.symlink(stentor, os.path.join(tools, "stentor"))
        os.symlink(swarm, os.path.join(tools, "swarm"))
        if not shutil.which("websocat"):
            os.symlink(os.path.join(HERE, "bin", "websocat"), os.path.join(tools, "websocat"))
        for folder in ("loadtest", "deploy"):
            os.symlink(os.path.join(ROOT, folder), os.path.join(self.folder, folder))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STENTOR_")},
            "PATH": f"{tools}:{os.environ['PATH']}",
            # No load balancer has to learn that a server of these documents ends.
            "STENTOR_SHUTDOWN_DELAY": "0s",
            "STENTOR_LISTEN": f"127.0.0.1:{self.ports['8080']}",
            "STENTOR_LOG": "warn",
            "TESTS_DOCS": HERE,
        }

    def adapted(self, text):
        """The text with this document's ports and the test's programs."""
        text = text.replace("wss://chat.example", "ws://127.0.0.1:8080")
        for port, free in self.ports.items():
            text = re.sub(rf"(?<![\w.]){port}\b", str(free), text)
        text = text.replace("cargo run --release -p loadtest --", "swarm").replace("cargo run --release", "stentor")
        text = re.sub(r"\$\(pidof stentor\)|(?<=--server-pid )PID\b", "$DOCS_STENTOR_PID", text)
        for pattern, replacement in () if self.as_written else SMALL:
            text = re.sub(pattern, replacement, text)
        text = re.sub(r"\bswarm (chat)(?=\s+#)", rf"swarm \1 ws://127.0.0.1:{self.ports['8080']}", text)
        # `localhost` may be ::1 first, where the servers of the test do not listen.
        return text.replace("localhost", "127.0.0.1")

    def prepare(self):
        """Nothing, or what went wrong in the document's script in before/."""
        path = os.path.join(HERE, "before", self.name.replace("/", "-") + ".sh")
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as file:
            return self.run(Block(0, "sh", {}, file.read()))

    def run(self, block):
        """Nothing, or what went wrong."""
        if "file" in block.marks:
            with open(os.path.join(self.folder, block.marks["file"]), "w", encoding="utf-8") as file:
                file.write(self.adapted(block.text))
        if block.language not in ("sh", "bash", "console"):
            return None
        text = self.adapted(block.text)
        if "server" in block.marks:
            return self.serve(block.marks["server"] or "8080", text)
        starts_its_own = re.search(r"^stentor .*&$", text, re.MULTILINE)
        if re.search(rf"\b{self.ports['8080']}\b|DOCS_STENTOR_PID", text) and not self.is_up("8080") and not starts_its_own:
            problem = self.serve("8080", "stentor")
            if problem:
                return problem
        seconds = int(block.marks.get("seconds") or SECONDS)
        return self.execute(text, max(seconds, AS_WRITTEN_SECONDS) if self.as_written else seconds)

    def start(self, text, output):
        environment = {**self.environment, "DOCS_STENTOR_PID": str(self.pid() or "")}
        return subprocess.Popen(
            ["bash", "-ec", text], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )

    def execute(self, text, seconds):
        with tempfile.TemporaryFile() as output:
            process = self.start(text, output)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = f"no end after {seconds} s"
            end(process, signal.SIGKILL)
            if code == 0:
                return None
            output.seek(0)
            return f"{text}{output.read().decode(errors='replace')[-4000:]}\nexit: {code}"

    def serve(self, port, text):
        self.stop(port)
        output = tempfile.TemporaryFile()
        process = self.servers[port] = self.start(text, output)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.ports[port])) == 0:
                    return None
            time.sleep(0.02)
        self.stop(port)
        output.seek(0)
        return f"{text}\n{output.read().decode(errors='replace')[-4000:]}\nit does not serve on port {port}"

    def is_up(self, port):
        server = self.servers.get(port)
        return server is not None and server.poll() is None

    def pid(self):
        """The Stentor that serves: the process of the block, or a child of it."""
        server = self.servers.get("8080")
        waiting = [server.pid] if server else []
        while waiting:
            pid = waiting.pop()
            try:
                if os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(self.stentor):
                    return pid
                with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
                    waiting += map(int, children.read().split())
            except OSError:
                pass
        return None

    def stop(self, port):
        server = self.servers.pop(port, None)
        if server:
            end(server, signal.SIGTERM)
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                end(server, signal.SIGKILL)

    def close(self):
        for port in list(self.servers):
            self.stop(port)
        shutil.rmtree(self.folder, ignore_errors=True)


def end(process, how):
    """Ends a block and all that it has started in its group."""
    try:
        os.killpg(process.pid, how)
    except ProcessLookupError:
        pass
    if how == signal.SIGKILL:
        process.wait()


def documents():
    folder = os.path.join(ROOT, "docs")
    return DOCUMENTS + sorted(f"docs/{name}" for name in os.listdir(folder) if name.endswith(".md"))


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--as-written"]
    as_written = len(arguments) < len(sys.argv) - 1
    stentor, swarm = map(os.path.abspath, arguments[:2])
    passed = skipped = failed = 0
    if not shutil.which("websocat"):
        print("note     websocat is not installed: tests/docs/bin/websocat stands in for it")
    for name in arguments[2:] or documents():
        document = Document(name, stentor, swarm, as_written)
        try:
            problem = document.prepare()
            if problem:
                failed += 1
                print(f"FAILED   before {name}:\n{problem}")
            for block in blocks(os.path.join(ROOT, name)):
                where = f"{name}:{block.line}"
                if "ignore" in block.marks and not block.marks["ignore"]:
                    failed += 1
                    print(f"FAILED   {where}: the reason is missing")
                elif "ignore" in block.marks:
                    skipped += 1
                    print(f"skipped  {where}: {block.marks['ignore']}")
                else:
                    problem = document.run(block)
                    is_shell = block.language in ("sh", "bash", "console")
                    passed += is_shell and problem is None
                    failed += problem is not None
                    if problem:
                        print(f"FAILED   {where}:\n{problem}")
                    elif is_shell:
                        print(f"ok       {where}: {block.title()}")
                sys.stdout.flush()
        finally:
            document.close()
    print(f"{passed} shell blocks ran, {skipped} skipped, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

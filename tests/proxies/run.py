#!/usr/bin/env python3
"""The proxies of deploy/proxies in front of a server: run.py STENTOR SWARM [nginx|haproxy|caddy …]

Each runs with the file as it is documented. Only ports, addresses, the name of the site, its certificate and the
time-outs are replaced, each exactly as often as it is expected, so that a change of the file shows here.
"""
import asyncio
import concurrent.futures
import http.client
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import websockets

FILES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "proxies"
CLIENTS = 50
# Of the file: 75 s, longer than the server's ping_interval and pong_timeout. Here: seconds, in the same proportion.
IDLE_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT = 4, 1, 2
SHUTDOWN_DELAY = 5
# Where the proxies listen: what `localhost` is first. The servers are on IPv4.
LOCALHOST = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)[0][4][0]
HANDSHAKE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, seconds=10):
    """Waits until the condition holds. Returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "not within %s s" % seconds
        time.sleep(0.02)
    return time.monotonic() - start


class Server:
    """A Stentor."""

    def __init__(self, program, *options):
        self.program, self.options, self.port = program, options, free_port()
        self.start()

    def start(self):
        self.process = subprocess.Popen([
            self.program, "serve", "--listen", f"127.0.0.1:{self.port}", "--shards", "2", "--log", "error", "--log-format", "human",
            "--ping-interval", f"{PING_INTERVAL}s", "--pong-timeout", f"{PONG_TIMEOUT}s",
            "--shutdown-delay", f"{SHUTDOWN_DELAY}s", *self.options,
        ])
        eventually(lambda: self.get("/readyz") == 200)

    def open(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def get(self, path):
        """The status of a request that goes past the proxy; 0 when nothing listens."""
        try:
            return self.open(path).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, name):
        text = self.open("/metrics").read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Proxy:
    """A proxy with its documented configuration, in front of one server or of two."""

    # The file, what is replaced in it, and where the copy goes in the folder of the run.
    def __init__(self, folder, ports, changes=()):
        self.folder, self.port, self.ports = folder, free_port(), ports
        text = (FILES / self.file).read_text()
        for old, new, count in [*self.replaced(), *((old, new, 1) for old, new in changes)]:
            assert text.count(old) == count, f"{self.file}: {old!r} occurs {text.count(old)} times, not {count}"
            text = text.replace(old, new)
        (folder / self.file).write_text(text)
        log = (folder / "log").open("w")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})
        eventually(self.listens)

    def listens(self):
        assert self.process.poll() is None, f"{self.name} ended: {(self.folder / 'log').read_text()}"
        try:
            socket.create_connection((LOCALHOST, self.port), timeout=5).close()
            return True
        except OSError:
            return False

    def address(self):
        return f"[{LOCALHOST}]:{self.port}" if ":" in LOCALHOST else f"{LOCALHOST}:{self.port}"

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def request(self, path, headers=None):
        """The status of a request, and the beginning of its answer."""
        tls = ssl.create_default_context(cafile=str(self.folder / "localhost.pem"))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=5, context=tls)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, b"" if answer.status == 101 else answer.read(4096)
        finally:
            connection.close()

    def handshake(self, origin=None, **headers):
        """The status of a page's handshake. By default its origin has the port in it."""
        origin = origin or f"https://localhost:{self.port}"
        return self.request("/ws/probe", {**HANDSHAKE, "Origin": origin, **headers})[0]


class Nginx(Proxy):
    name, file = "nginx", "nginx.conf"

    def replaced(self):
        return [
            ("listen 443 ssl", f"listen {self.address()} ssl", 1),
            ("127.0.0.1:8080", f"127.0.0.1:{self.ports[0]}", 1),
            ("/etc/ssl/chat.example", f"{self.folder}/localhost", 2),
            ("server_name chat.example", "server_name localhost", 1),
            ("_timeout 75s", f"_timeout {IDLE_TIMEOUT}s", 2),
        ]

    def command(self):
        paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        temporary = " ".join(f"{path}_temp_path {self.folder}/{path};" for path in paths)
        (self.folder / "whole.conf").write_text(
            f"daemon off; pid {self.folder}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; {temporary} include {self.folder}/nginx.conf; }}\n")
        return ["nginx", "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "whole.conf")]


class Haproxy(Proxy):
    name, file = "haproxy", "haproxy.cfg"

    def replaced(self):
        return [
            ("bind :443", f"bind {self.address()}", 1),
            ("192.0.2.1:8080", f"127.0.0.1:{self.ports[0]}", 1),
            ("192.0.2.2:8080", f"127.0.0.1:{self.ports[-1]}", 1),
            ("/etc/haproxy/chat.example.pem", f"{self.folder}/both.pem", 1),
            ("hdr Host chat.example", "hdr Host localhost", 1),
            ("timeout tunnel 75s", f"timeout tunnel {IDLE_TIMEOUT}s", 1),
        ]

    def command(self):
        # -dW: a warning is an error.
        return ["haproxy", "-db", "-dW", "-f", str(self.folder / self.file)]


class Caddy(Proxy):
    name, file = "caddy", "Caddyfile"

    def replaced(self):
        certificate = f"tls {self.folder}/localhost.pem {self.folder}/localhost.key"
        return [
            ("chat.example {\n", f"https://localhost:{self.port} {{\n\t{certificate}\n", 1),
            ("reverse_proxy 127.0.0.1:8080", f"reverse_proxy 127.0.0.1:{self.ports[0]}", 1),
        ]

    def command(self):
        (self.folder / "whole").write_text(f"{{\n\tadmin off\n\tauto_https disable_redirects\n}}\nimport {self.folder}/Caddyfile\n")
        return ["caddy", "run", "--adapter", "caddyfile", "--config", str(self.folder / "whole")]


def certificate(folder):
    key, chain = folder / "localhost.key", folder / "localhost.pem"
    subprocess.run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
        "-keyout", key, "-out", chain,
    ], check=True, capture_output=True)
    (folder / "both.pem").write_text(chain.read_text() + key.read_text())


def check_pages(server, proxy):
    """The page is for all, and what describes the server is not."""
    status, page = proxy.request("/")
    assert status == 200 and b"<!doctype html>" in page.lower(), (status, page)
    for path in ["/metrics", "/healthz", "/readyz"]:
        assert (proxy.request(path)[0], server.get(path)) == (404, 200), path


def check_origins(proxy):
    """The page's origin is the host that the server sees, with a port and, as on port 443, without one."""
    assert proxy.handshake() == 101
    assert proxy.handshake("https://localhost", Host="localhost") == 101
    assert proxy.handshake("https://other.example") == 403


def check_chat(swarm, proxy):
    """Every message arrives once and in order, in both protocols and compressed, too."""
    for preset in [["stentor"], ["stentor-json", "--deflate"]]:
        run = subprocess.run([
            swarm, "chat", f"wss://localhost:{proxy.port}", "--preset", *preset, "--ca", str(proxy.folder / "localhost.pem"),
            "--header", f"Origin: https://localhost:{proxy.port}", "--clients", str(CLIENTS), "--publishers", "5",
            "--rate", "50", "--duration", "1s", "--size", "48..3000", "--workers", "1", "--quiet",
            "--threshold", "lost == 0", "--threshold", "duplicated == 0", "--threshold", "reordered == 0",
            "--threshold", "errors == 0", "--threshold", "not_connected == 0", "--threshold", f"deliveries == {50 * CLIENTS}",
        ], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, (preset, run.stdout, run.stderr)


def connect(proxy, name):
    tls = ssl.create_default_context(cafile=str(proxy.folder / "localhost.pem"))
    return websockets.connect(f"wss://localhost:{proxy.port}/ws/{name}?room=tea", ssl=tls,
                              origin=f"https://localhost:{proxy.port}", ping_interval=None)


async def exchange(one, other, text):
    """A message of one client is the next one that both receive."""
    await one.send(text)
    for client in (one, other):
        line = await asyncio.wait_for(client.recv(), 5)
        assert line.endswith(f": {text}"), line


async def try_connect(proxy, clients):
    """Connects one more client. Returns the status of a refusal, or 101."""
    try:
        clients.append(await connect(proxy, f"client-{len(clients)}"))
        return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


async def check_end(server, proxy, second):
    """A quiet connection outlives the proxy's time-out. A shutdown closes every client with 1001, and the server ends.
    With a second server no client is refused meanwhile, and those that connect later stay."""
    clients = [await connect(proxy, "one"), await connect(proxy, "other")]
    await exchange(*clients, "before")
    await asyncio.sleep(1.5 * IDLE_TIMEOUT)
    await exchange(*clients, "after a silence")
    server.process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    while server.get("/readyz") == 200:
        assert time.monotonic() - start < 2
    await exchange(*clients, "during the shutdown")
    refused, moved = {}, None
    while server.process.poll() is None:
        seconds = round(time.monotonic() - start, 1)
        assert seconds < SHUTDOWN_DELAY + 3, "the drain does not end"
        status = await try_connect(proxy, clients)
        # In the drain they are.
        if status != 101 and seconds < SHUTDOWN_DELAY - 0.5:
            refused.setdefault(status, seconds)
        elif second and moved is None and second.metric("stentor_websocket_connections"):
            moved = seconds
        await asyncio.sleep(0.1)
    assert server.process.returncode == 0, server.process.returncode
    stayed = int(second.metric("stentor_websocket_connections")) if second else 0
    for client in clients[: len(clients) - stayed]:
        await asyncio.wait_for(client.wait_closed(), 5)
        assert client.close_code == 1001, client.close_code
    if second:
        assert moved and moved < SHUTDOWN_DELAY and stayed > 1, (moved, stayed)
        await exchange(*clients[-2:], "on the second server")
    else:
        assert await try_connect(proxy, clients) in (502, 503)
        server.start()
        eventually(lambda: proxy.handshake() == 101)
    for client in clients:
        await client.close()
    assert not refused, f"new clients are refused while the server still serves: {refused}"
    return f"a second server takes over after {moved} s" if second else "no client is refused"


def check_headers(program, folder):
    """nginx passes nothing on by itself: which status follows, and which cause the server counts."""
    host = "        proxy_set_header Host $http_host;\n"
    upgrade = "        proxy_set_header Upgrade $http_upgrade;\n        proxy_set_header Connection $connection_upgrade;\n"
    for left_out, options, status, cause in [
        (host, [], 403, "origin"), (host, ["--origins", "https://localhost"], 101, None), (upgrade, [], 426, "upgrade_required"),
    ]:
        server = Server(program, *options)
        proxy = Nginx(folder, [server.port], [(left_out, "")])
        try:
            assert proxy.handshake("https://localhost") == status
            refusals = server.metric(f'stentor_http_refusals_total{{status="{status}",cause="{cause}"}}')
            assert refusals == (1 if cause else 0), (cause, refusals)
        finally:
            proxy.end()
            server.end()


def check(kind, program, swarm, folder):
    """Everything about one proxy. Returns what happened to new clients during the shutdown."""
    folder.chmod(0o755)
    certificate(folder)
    servers = [Server(program, "--max-session-messages-per-second", "0", "--max-session-commands-per-second", "0")]
    if kind is Haproxy:
        servers.append(Server(program))
    proxy = None
    try:
        proxy = kind(folder, [server.port for server in servers])
        # HAProxy serves no client before a health check has passed.
        eventually(lambda: proxy.handshake() == 101)
        check_pages(servers[0], proxy)
        check_origins(proxy)
        check_chat(swarm, proxy)
        ended = asyncio.run(check_end(servers[0], proxy, servers[1] if servers[1:] else None))
        if kind is Nginx:
            check_headers(program, folder)
        return ended
    except BaseException:
        print(f"{kind.name}'s log:\n{(folder / 'log').read_text()}", file=sys.stderr)
        raise
    finally:
        for process in [proxy, *servers]:
            if process:
                process.end()


def main():
    program, swarm, *names = sys.argv[1:]
    os.environ["PATH"] += ":/usr/sbin"
    kinds = [kind for kind in (Nginx, Haproxy, Caddy) if not names or kind.name in names]
    with tempfile.TemporaryDirectory() as root, concurrent.futures.ThreadPoolExecutor() as pool:
        pathlib.Path(root).chmod(0o755)
        running = []
        for kind in kinds:
            folder = pathlib.Path(root) / kind.name
            folder.mkdir()
            running.append((kind, pool.submit(check, kind, program, swarm, folder)))
        for kind, result in running:
            print(f"{kind.name}: ok; during a shutdown {result.result()}")


if __name__ == "__main__":
    main()

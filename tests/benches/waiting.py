#!/usr/bin/env python3
"""Many clients that wait: listeners that hear of one change, and calls whose guests asked their users and are parked.

    cargo build --release && tests/benches/waiting.py [--listeners N] [--parked N] [--changes N]

10,000 of each unless it is said. The listeners' side is one thread with one `epoll`, on the same machine: what it takes itself to read that many answers is in the figures.
Every listener hears of each change once, or the script fails. Needs as many open files as there are listeners (`ulimit -n`). Prints Markdown.
"""

import argparse
import json
import pathlib
import resource
import select
import socket
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests/clients"))
import serving

PORT = 18441
MODERN = "2026-07-28"
WATCHED = "test://watched-resource"
ASKS = "test_input_required_result_elicitation"
SECONDS = 120


def config(listeners: int, parked: int) -> str:
    """One client has everything here, so it needs more than the share of one tenant."""
    connections, waiting = 2 * listeners + 4096, parked + 64
    return f"""
[tools]
builtin = false
[server]
max_connections = {connections}
[engine]
max_waiting = {waiting}
[tenant_limits]
connections = {connections}
streams = {listeners + 64}
waiting = {waiting}
guest_bytes = {1 << 37}
message_bytes = {1 << 33}
[memory]
guest_bytes = {1 << 38}
message_bytes = {1 << 34}
"""


def message(method: str, **params: object) -> bytes:
    """A request of the modern era, as bytes."""
    key = "io.modelcontextprotocol/"
    capabilities = {"elicitation": {"form": {}}}
    params["_meta"] = {key + "protocolVersion": MODERN, key + "clientCapabilities": capabilities}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    name = f"mcp-name: {params['name']}\r\n" if "name" in params else ""
    return (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{PORT}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        f"mcp-protocol-version: {MODERN}\r\nmcp-method: {method}\r\n{name}content-length: {len(body)}\r\n\r\n{body}"
    ).encode()


def connection() -> socket.socket:
    made = socket.create_connection(("127.0.0.1", PORT), timeout=SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Caller:
    """One connection that is kept."""

    def __init__(self) -> None:
        self.socket, self.rest = connection(), b""

    def call(self, tool: str, **more: object) -> dict:
        self.socket.sendall(message("tools/call", name=tool, arguments={}, **more))
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.read()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        if b"chunked" in head.lower():
            while not self.rest.endswith(b"0\r\n\r\n"):
                self.rest += self.read()
            body, self.rest = self.rest, b""
            return json.loads(next(line[5:] for line in reversed(body.split(b"\n")) if line.startswith(b"data:") and b"{" in line))
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(self.rest) < length:
            self.rest += self.read()
        body, self.rest = self.rest[:length], self.rest[length:]
        return json.loads(body)

    def read(self) -> bytes:
        read = self.socket.recv(1 << 16)
        if not read:
            sys.exit("the host closed a connection")
        return read


class Listeners:
    """Connections that listen, and what each has heard that it has not been asked for yet."""

    def __init__(self, number: int) -> None:
        self.poll, self.by_number = select.epoll(), {}
        request = message("subscriptions/listen", notifications={"resourceSubscriptions": [WATCHED]})
        for _ in range(number):
            made = connection()
            made.sendall(request)
            made.setblocking(False)
            self.poll.register(made.fileno(), select.EPOLLIN)
            self.by_number[made.fileno()] = made

    def hear(self, what: bytes, begun: float) -> list[float]:
        """When each has heard it, in seconds since it began."""
        heard, deadline = {}, time.monotonic() + SECONDS
        while len(heard) < len(self.by_number):
            if time.monotonic() > deadline:
                sys.exit(f"{len(heard)} of {len(self.by_number)} heard {what!r}")
            for number, _ in self.poll.poll(1, 4096):
                read = self.by_number[number].recv(1 << 16)
                if not read:
                    sys.exit("the host closed a listener's connection")
                times = read.count(what)
                if times > 1 or times and number in heard:
                    sys.exit("a listener heard of one change twice")
                if times:
                    heard[number] = time.monotonic() - begun
        return list(heard.values())

    def are_silent(self) -> None:
        """Nobody hears anything more."""
        for number, _ in self.poll.poll(0.5, 4096):
            if b"data: {" in self.by_number[number].recv(1 << 16):
                sys.exit("a listener heard of one change twice")


def resident(process: int) -> float:
    """Its memory, in KiB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    return float(status.split("VmRSS:")[1].split()[0])


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def listeners(number: int, changes: int, host: int) -> None:
    caller, before, begun = Caller(), resident(host), time.monotonic()
    all_of_them = Listeners(number)
    all_of_them.hear(b"notifications/subscriptions/acknowledged", begun)
    made, each = time.monotonic() - begun, (resident(host) - before) / number
    first, last = [], []
    for _ in range(changes):
        begun = time.monotonic()
        caller.call("test_change_resource")
        heard = all_of_them.hear(b"notifications/resources/updated", begun)
        first.append(min(heard))
        last.append(max(heard))
        all_of_them.are_silent()
    print(f"| {number:,} listeners: begun within / memory of the host for each | {made:.1f} s / {each:.1f} KiB |")
    print(f"| one change: the first / the last has heard it, median of {changes} | {ms(statistics.median(first))} / {ms(statistics.median(last))} |")


def parked(number: int, host: int) -> None:
    caller, states = Caller(), []
    replies = {"user_name": {"action": "accept", "content": {"name": "Ada"}}}
    before, begun = resident(host), time.monotonic()
    for _ in range(number):
        result = caller.call(ASKS)["result"]
        if result["resultType"] != "input_required":
            sys.exit(f"a call was not parked: {result}")
        states.append(result["requestState"])
    made, each = (time.monotonic() - begun) / number, (resident(host) - before) / number
    times = []
    for state in states:
        begun = time.monotonic()
        answer = caller.call(ASKS, requestState=state, inputResponses=replies)
        times.append(time.monotonic() - begun)
        if answer["result"]["content"][0]["text"] != "Hello, Ada!":
            sys.exit(f"a parked call did not go on: {answer}")
    times.sort()
    print(f"| {number:,} parked calls: parked within, each / memory of the host for each | {ms(made)} / {each:.1f} KiB |")
    print(f"| resumed, with the answer: p50 / p99 | {ms(times[len(times) // 2])} / {ms(times[len(times) * 99 // 100])} |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--listeners", type=int, default=10_000)
    options.add_argument("--parked", type=int, default=10_000)
    options.add_argument("--changes", type=int, default=5)
    options.add_argument("--program", default=ROOT / "target/release/mcpp")
    options.add_argument("--guest", default=ROOT / "target/guests/wasm32-wasip2/guest/conformance.wasm")
    given = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        tools, settings = pathlib.Path(folder, "tools"), pathlib.Path(folder, "mcpp.toml")
        tools.mkdir()
        (tools / "conformance.wasm").write_bytes(pathlib.Path(given.guest).read_bytes())
        settings.write_text(config(given.listeners, given.parked))
        with serving.start(given.program, f"{folder}/data", PORT, "--config", settings, "--tools", tools) as host:
            try:
                print("| what | |\n|---|---|")
                listeners(given.listeners, given.changes, host.pid)
                parked(given.parked, host.pid)
            finally:
                host.terminate()


if __name__ == "__main__":
    main()

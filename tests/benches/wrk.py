#!/usr/bin/env python3
"""Calls by `wrk`, a client that is not ours: mcpp beside the protocol engine's own native server and a bare handler.

    cargo build --release && cargo bench -p mcpp-tests --no-run && tests/benches/wrk.py [--rounds N] [--seconds N] [--soak SECONDS] [--guests DIR]

The servers run in turn, in each round, on this machine. Medians of the rounds count. `CPU` is the server's processor time for a call. `--soak` keeps 1,000
connections for so long and shows errors and memory. `--guests` measures the templates' tools too: one build a language, `python.wasm` and so on. Needs Debian's `wrk`. Prints Markdown.
"""

import argparse
import glob
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
MODERN = "2026-07-28"
ADD = os.path.join(ROOT, "tests/fuzz/components/add.wasm")
CONNECTIONS = [1, 8, 32, 256]
# One client has all the connections here, so it needs more than the share of one tenant.
CONFIG = '[server]\nmax_connections = 4096\n[tenant_limits]\nconnections = 4000\nqueued = 4000\n[limits]\nconcurrency = 4000\n[engine]\nmax_queued = 4096\n'
LATENCY = {"us": 1, "ms": 1_000, "s": 1_000_000}


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def meta():
    key = "io.modelcontextprotocol/"
    return {key + "protocolVersion": MODERN, key + "clientInfo": {"name": "wrk", "version": "1"}, key + "clientCapabilities": {}}


def message(method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta()}})


def headers(method, name):
    told = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": method,
    }
    return {**told, "mcp-name": name} if name else told


class Server:
    """A program that serves MCP on a port."""

    def __init__(self, name, command, env=None):
        self.name, self.port = name, port()
        command = [part.replace("PORT", str(self.port)) for part in command]
        environment = {**os.environ, **{key: value.replace("PORT", str(self.port)) for key, value in (env or {}).items()}}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{self.port}/mcp"

    def ask(self, method, name=None, **params):
        body = message(method, **({"name": name} if name else {}), **params).encode()
        request = urllib.request.Request(self.url, body, headers(method, name))
        return json.load(urllib.request.urlopen(request, timeout=30))

    def until_it_serves(self, tool, arguments):
        for _ in range(600):
            try:
                answer = self.ask("tools/call", tool, arguments=arguments)
                if "error" not in answer and not answer["result"].get("isError"):
                    return
                failure = answer
            except OSError as error:
                failure = error
            time.sleep(0.2)
        sys.exit(f"{self.name} does not serve {tool}: {failure}")

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1_024

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def load(server, script, connections, seconds):
    """p50 and p99 in microseconds, CPU in microseconds a call, calls a second, failed calls."""
    before = server.cpu()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, server.url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = server.cpu() - before
    requests = int(re.search(r"(\d+) requests in", said)[1])

    def at(quantile):
        number, unit = re.search(rf"^\s+{quantile}%\s+([\d.]+)(us|ms|s)$", said, re.M).groups()
        return float(number) * LATENCY[unit]

    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    failed += sum(int(number) for line in re.findall(r"Socket errors: (.*)", said) for number in re.findall(r"\d+", line))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
    return at(50), at(99), used * 1e6 / max(requests, 1), rate, failed


def script_for(folder, method, name, arguments):
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(message(method, **({'name': name, 'arguments': arguments} if name else {})))}"]
    lines += [f"wrk.headers[{json.dumps(key)}] = {json.dumps(value)}" for key, value in headers(method, name).items()]
    path = os.path.join(folder, f"{method}-{name}.lua".replace("/", "-"))
    with open(path, "w") as file:
        file.write("\n".join(lines))
    return path


def guests(tools, more):
    """Copies the guests that are there, and says how each is called."""
    shutil.copy(ADD, os.path.join(tools, "add.wasm"))
    known = [("plain Wasm tool", "add", {"a": 1, "b": 2}), ("SDK tool (Rust)", "text_hash", {"text": "abc"})]
    for found in sorted(glob.glob(os.path.join(more, "*.wasm"))) if more else []:
        language = os.path.basename(found).removesuffix(".wasm")
        for name, label in [(language, language), (f"{language}-kept", f"{language}, `reuse`")]:
            shutil.copy(found, os.path.join(tools, f"{name}.wasm"))
            known.append((label, f"{name}_greet", {"name": "World"}))
    return known


def grant(data, component):
    folder = os.path.join(data, "grants")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, f"{component}.toml"), "w") as file:
        file.write("version = 1\nreuse = {}\n")


def number(value):
    return f"{value / 1_000:.2f} ms" if value >= 1_000 else f"{value:.0f} µs"


def soak(server, script, seconds):
    load(server, script, 1_000, 5)
    resident = [server.resident()]
    until, failed, calls = time.time() + seconds, 0, 0.0
    while time.time() < until:
        slice_s = max(1, min(30, int(until - time.time())))
        *_, rate, errors = load(server, script, 1_000, slice_s)
        failed, calls = failed + errors, calls + rate * slice_s
        resident.append(server.resident())
    print(f"\n1,000 connections for {seconds} s: {calls:,.0f} calls, {failed} failed,", end=" ")
    print(f"resident {resident[0]:.0f} MB after 5 s, {resident[-1]:.0f} MB at the end, {max(resident):.0f} MB at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--guests")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    mcpp = os.path.join(TARGET, "release/mcpp")
    benches = [path for path in glob.glob(os.path.join(TARGET, "release/deps/calls-*")) if not path.endswith(".d")]
    if not os.path.exists(mcpp) or not benches:
        sys.exit("build first: cargo build --release && cargo bench -p mcpp-tests --no-run")
    bench = max(benches, key=os.path.getmtime)
    with tempfile.TemporaryDirectory() as folder:
        tools, data = os.path.join(folder, "tools"), os.path.join(folder, "data")
        os.mkdir(tools)
        kinds = guests(tools, options.guests)
        for _, tool, _ in kinds:
            if "-kept" in tool:
                grant(data, tool.split("_")[0])
        config = os.path.join(folder, "mcpp.toml")
        with open(config, "w") as file:
            file.write(CONFIG)
        ours = Server("mcpp", [mcpp, "serve", "--config", config, "--listen", "127.0.0.1:PORT", "--data", data, "--tools", tools])
        rmcp = Server("rmcp", [bench, "serve-rmcp"], {"PORT": "PORT"})
        axum = Server("axum", [bench, "serve-axum"], {"PORT": "PORT"})
        rows = [(f"mcpp, {label}", ours, tool, arguments) for label, tool, arguments in kinds]
        rows += [("rmcp's own server, native tool", rmcp, "add", {"a": 1, "b": 2})]
        rows += [("bare axum handler", axum, "add", {"a": 1, "b": 2})]
        for _, server, tool, arguments in rows:
            server.until_it_serves(tool, arguments)
        measured = {}
        for done in range(options.rounds):
            for connections in CONNECTIONS:
                for label, server, tool, arguments in rows:
                    script = script_for(folder, "tools/call", tool, arguments)
                    measured.setdefault((label, connections), []).append(load(server, script, connections, options.seconds))
                listing = script_for(folder, "tools/list", None, None)
                for label, server in [("mcpp, `tools/list`", ours), ("rmcp's own server, `tools/list` of one tool", rmcp)]:
                    measured.setdefault((label, connections), []).append(load(server, listing, connections, options.seconds))
            print(f"round {done + 1} of {options.rounds}", file=sys.stderr)
        print("| | connections | p50 | p99 | CPU a call | calls a second | failed |\n|---|---|---|---|---|---|---|")
        for (label, connections), rounds in measured.items():
            p50, p99, cpu, rate, failed = (statistics.median(values) for values in zip(*rounds))
            print(f"| {label} | {connections} | {number(p50)} | {number(p99)} | {number(cpu)} | {rate:,.0f} | {failed:.0f} |")
        if options.soak:
            soak(ours, script_for(folder, "tools/call", "add", {"a": 1, "b": 2}), options.soak)
        for server in [ours, rmcp, axum]:
            server.stop()


if __name__ == "__main__":
    main()

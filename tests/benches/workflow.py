#!/usr/bin/env python3
"""Durable steps of workflows a second, on a host of its own with a fresh data directory. Every step is a call of `text_hash`, and on disk before the next begins.

    cargo build --release && python3 tests/benches/workflow.py [target/release/mcpp]

It runs one chain, many chains at once, and one step over a list. Each line is: shape, steps, seconds, steps a second, milliseconds a step.
"""

import atexit
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


class Host:
    def __init__(self, program, folder):
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data", folder]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"RUST_LOG": "info"})
        atexit.register(self.process.kill)
        for line in self.process.stderr:
            record = json.loads(line)
            if record.get("message") == "serving":
                self.url = record["url"]
                return
        sys.exit("the host ended before it served")

    def call(self, tool, arguments):
        params = {"name": tool, "arguments": arguments, "_meta": META}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        with urllib.request.urlopen(urllib.request.Request(self.url, body, headers)) as answer:
            result = json.load(answer)["result"]["structuredContent"]
        if not result.get("success"):
            sys.exit(f"{tool}: {result}")
        return result


def chain(length):
    def step(number):
        before = {"depends_on": [f"s{number - 1}"]} if number else {}
        return {"step_id": f"s{number}", "action": "text_hash", "inputs": {"text": "x"}, **before}

    return [step(number) for number in range(length)]


def over_a_list(length):
    items = {"items": [str(number) for number in range(length)], "parallel": 100}
    return [{"step_id": "each", "action": "text_hash", "inputs": {"text": "${item}"}, "for_each": items}]


def measure(host, name, workflows, steps):
    began = time.monotonic()
    for number, workflow in enumerate(workflows):
        host.call("workflow_submit", {"workflow_id": f"{name}-{number}", "name": name, "steps": workflow})
    for number in range(len(workflows)):
        while True:
            status = host.call("workflow_status", {"workflow_id": f"{name}-{number}", "include_steps": False})["status"]
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                sys.exit(f"{name}-{number} {status}")
            time.sleep(0.01)
    took = time.monotonic() - began
    print(f"{name:<12} {steps:>6} {took:>8.2f} {steps / took:>8.0f} {took / steps * 1e3:>8.3f}")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "target/release/mcpp"
    with tempfile.TemporaryDirectory() as folder:
        host = Host(program, folder)
        try:
            measure(host, "first", [chain(20)], 20)
            measure(host, "chain", [chain(300)], 300)
            measure(host, "chains", [chain(50) for _ in range(40)], 2_000)
            measure(host, "list", [over_a_list(1_000)], 1_000)
        finally:
            host.process.terminate()
            host.process.wait()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Durable steps of workflows a second, on a host of its own with a fresh data directory. Every step is a call of `text_hash`, and on disk before the next begins.

    cargo build --release && python3 tests/benches/workflow.py [target/release/mcpp [RUNS]]

It runs one chain, as many chains as steps run at once, more chains at once, one step over a list, a graph of 10,000 steps, and 75 workflows at once. Each line is: shape, steps, seconds, steps a second,
milliseconds a step. The lines `gap` are the milliseconds from a step's end to its successor's start, p50 and p99.

Then RUNS runs (10,000 unless it is said) wait for a signal. The lines behind are what lists, counts and filters of them take, p50 and p99 of 200, in milliseconds.
"""

import atexit
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime

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
                return self.wait_until_loaded()
        sys.exit("the host ended before it served")

    def wait_until_loaded(self):
        """On a fresh data directory the host compiles its own tools first, on the processors that are to be measured."""
        ready = self.url.rsplit("/", 1)[0] + "/ready"
        while True:
            try:
                with urllib.request.urlopen(ready):
                    return
            except urllib.error.HTTPError:
                time.sleep(0.1)

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


def large_graph(steps):
    """So many steps: nine fans of 1,000 items each, and a chain of what is left."""
    fan = {"items": [str(number) for number in range(1_000)], "parallel": 100}
    fans = [
        {"step_id": f"fan{number}", "action": "text_hash", "inputs": {"text": "${item}"}, "for_each": fan}
        for number in range(9)
    ]
    return fans + chain(steps - 9 * 1_001)


def fan_in(width):
    """Some steps at once, and one that waits for all of them."""
    first = [{"step_id": f"s{number}", "action": "text_hash", "inputs": {"text": "x"}} for number in range(width)]
    last = {"step_id": "last", "action": "text_hash", "inputs": {"text": "x"}}
    return first + [{**last, "depends_on": [step["step_id"] for step in first]}]


def percentiles(values):
    ordered = sorted(values)
    at = lambda part: ordered[min(len(ordered) - 1, int(len(ordered) * part))]
    return at(0.5), at(0.99)


def gaps(host, runs):
    """Milliseconds from the end of each step of a chain to the start of the next."""
    found = []
    for run in runs:
        steps = host.call("workflow_status", {"workflow_id": run})["steps"]
        time_of = lambda step, name: datetime.fromisoformat(step[name].replace("Z", "+00:00")).timestamp() * 1e3
        found += [time_of(after, "start_time") - time_of(step, "end_time") for step, after in zip(steps, steps[1:])]
    p50, p99 = percentiles(found)
    print(f"{'  gap':<12} {len(found):>6} {p50:>8.1f} {p99:>8.1f}")


def waiting(host, runs):
    """Lists, counts and filters of so many runs that wait; every hundredth has a tag of its own."""
    wait = [{"step_id": "w", "action": "wait", "inputs": {"signal": "never"}}]
    numbers, lock = iter(range(runs)), threading.Lock()

    def submit():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            tags = ["all", "few"] if number % 100 == 0 else ["all"]
            arguments = {"workflow_id": f"wait-{number}", "name": "wait", "steps": wait, "tags": tags}
            host.call("workflow_submit", arguments)

    began = time.monotonic()
    submitting = [threading.Thread(target=submit) for _ in range(16)]
    for thread in submitting:
        thread.start()
    for thread in submitting:
        thread.join()
    while host.call("workflow_list", {"status_filter": "running", "tag_filter": ["all"], "limit": 1})["total_count"] < runs:
        time.sleep(0.1)
    print(f"{'submitted':<12} {runs:>6} {time.monotonic() - began:>8.2f}")
    asked = [
        ("list 50", {"limit": 50}),
        ("count", {"limit": 1, "status_filter": "running"}),
        ("filter", {"limit": 50, "status_filter": "running", "tag_filter": ["few"]}),
        ("by time", {"limit": 50, "status_filter": "running", "created_before": "2100-01-01T00:00:00Z"}),
    ]
    for name, arguments in asked:
        took = []
        for _ in range(200):
            at = time.monotonic()
            host.call("workflow_list", arguments)
            took.append((time.monotonic() - at) * 1e3)
        p50, p99 = percentiles(took)
        print(f"{name:<12} {runs:>6} {p50:>8.2f} {p99:>8.2f}")


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
            time.sleep(0.02)
    took = time.monotonic() - began
    print(f"{name:<12} {steps:>6} {took:>8.2f} {steps / took:>8.0f} {took / steps * 1e3:>8.3f}")


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "target/release/mcpp"
    with tempfile.TemporaryDirectory() as folder:
        host = Host(program, folder)
        try:
            measure(host, "first", [chain(20)], 20)
            measure(host, "chain", [chain(300)], 300)
            gaps(host, ["chain-0"])
            measure(host, "16 chains", [chain(500) for _ in range(16)], 8_000)
            gaps(host, [f"16 chains-{number}" for number in range(16)])
            measure(host, "chains", [chain(250) for _ in range(40)], 10_000)
            gaps(host, [f"chains-{number}" for number in range(40)])
            measure(host, "list", [over_a_list(1_000)], 1_000)
            measure(host, "large", [large_graph(10_000)], 10_000)
            measure(host, "75 at once", [fan_in(9) for _ in range(75)], 750)
            waiting(host, int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
        finally:
            host.process.terminate()
            host.process.wait()


if __name__ == "__main__":
    main()

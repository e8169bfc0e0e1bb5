#!/usr/bin/env python3
"""Other people's clients against the program, over HTTP, WebSocket and stdio.

    run.py MCPP GUESTS PYTHON OLD_PYTHONS NODE NODE_FOLDER
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import serving

HERE = pathlib.Path(__file__).parent
PORT = 18432
URL = serving.url(PORT)
SECONDS = 120
# The oldest SDKs of an era of the protocol: version, what they speak, whether they speak HTTP.
OLD = [("1.0.0", "2024-11-05", False), ("1.8.0", "2024-11-05", True), ("1.9.0", "2025-03-26", True)]
OLD_TYPESCRIPT = [("1.0.0", "2024-11-05", False), ("1.10.0", "2024-11-05", True), ("1.11.0", "2025-03-26", True)]


# A tool that takes longer than its client waits, in seconds: an hour and a minute, so to speak. The host answers before the client gives up.
LONG, PATIENCE, ANSWER = 15, 10, 1


def output(*command: object) -> str:
    environment = os.environ | {"MCP_INSPECTOR_SECRET_STORE": "memory"}
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def run(*command: object) -> None:
    print(output(*command)[:600])


def old(target: list[object], python: pathlib.Path, node: pathlib.Path, modules: pathlib.Path) -> None:
    over_http, over_websocket = (str(target[0]).startswith(scheme) for scheme in ["http", "ws"])
    for version, protocol, speaks_http in [] if over_websocket else OLD:
        if speaks_http or not over_http:
            run(python / f"mcp=={version}/bin/python", HERE / "old_client.py", version, protocol, *target)
    for version, protocol, speaks_http in OLD_TYPESCRIPT:
        if speaks_http or not over_http:
            run(node, HERE / "old_client.mjs", modules, version, protocol, *target)


def long_by_inspector(inspector: list[object]) -> None:
    """A command of the Inspector is one request: each is a client of its own."""

    def call(tool: str, *arguments: str) -> dict:
        named = [word for argument in arguments for word in ["--tool-arg", argument]]
        said = output(*inspector, "--cli", URL, "--transport", "http", "--method", "tools/call", "--tool-name", tool, *named)
        return json.loads(said[said.index("{") :])

    result, waits = call("slow_compute", f"seconds={LONG}", "label=inspector"), 0
    assert result["structuredContent"]["status"] == "working", result
    while result.get("structuredContent", {}).get("status") == "working":
        result, waits = call("task_wait", f"task={result['structuredContent']['task']}"), waits + 1
    assert result["content"][0]["text"] == "computed inspector", result
    print(f"inspector: the whole answer after {waits} calls of task_wait")


def long_by_ours(mcpp: pathlib.Path) -> None:
    """The client of the commands is rmcp's, and declares tasks."""
    said = output(mcpp, "call", "slow_compute", f"seconds={LONG}", "label=rmcp", "--url", URL, "--timeout", PATIENCE)
    assert said == "computed rmcp", said
    print("rmcp: the whole answer of its task")


def long(mcpp: pathlib.Path, python: pathlib.Path, node: pathlib.Path, modules: pathlib.Path, inspector: list[object]) -> None:
    """A tool that takes longer than its clients wait, called by all of them beside each other."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        calls = [
            threads.submit(run, python, HERE / "long_client.py", URL, LONG, PATIENCE),
            threads.submit(run, node, HERE / "long_client.mjs", modules, URL, LONG, PATIENCE),
            threads.submit(long_by_inspector, inspector),
            threads.submit(long_by_ours, mcpp),
        ]
        for call in calls:
            call.result()


def main() -> None:
    mcpp, guests, python, old_pythons, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    inspector = [node, modules / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"]
    if not inspector[1].exists():
        inspector = [modules / "node_modules/.bin/mcp-inspector"]
    with tempfile.TemporaryDirectory() as data:
        tools, config = pathlib.Path(data, "tools"), pathlib.Path(data, "mcpp.toml")
        tools.mkdir()
        for guest in ["conformance", "probe"]:
            (tools / f"{guest}.wasm").write_bytes((guests / f"{guest}.wasm").read_bytes())
        config.write_text("[server]\npage_size = 9\n")
        with serving.start(mcpp, f"{data}/http", PORT) as host:
            try:
                run(python, HERE / "client.py", URL)
                run(node, HERE / "client.mjs", modules, URL)
                print("inspector tools/list and tools/call:")
                run(*inspector, "--cli", URL, "--transport", "http", "--method", "tools/list")
                run(*inspector, "--cli", URL, "--transport", "http", "--method", "tools/call", "--tool-name", "text_hash", "--tool-arg", "text=abc")
            finally:
                host.terminate()
        grants = pathlib.Path(data, "http", "grants")
        grants.mkdir(exist_ok=True)
        (grants / "conformance.toml").write_text(f"version = 1\n[limits]\ndeadline_ms = 600000\nlong_call_s = {ANSWER}\n")
        with serving.start(mcpp, f"{data}/http", PORT, "--tools", tools) as host:
            try:
                long(mcpp, python, node, modules, inspector)
            finally:
                host.terminate()
        stdio = [mcpp, "serve", "--stdio", "--data", f"{data}/stdio"]
        run(python, HERE / "client.py", *stdio)
        run(node, HERE / "client.mjs", modules, *stdio)
        with serving.start(mcpp, f"{data}/http", PORT, "--config", config, "--tools", tools) as host:
            try:
                old([URL], old_pythons, node, modules)
                old([URL.replace("http", "ws", 1)], old_pythons, node, modules)
            finally:
                host.terminate()
        old([mcpp, "serve", "--config", config, "--tools", tools, "--stdio", "--data", f"{data}/stdio"], old_pythons, node, modules)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The client under test, for the official suite's scenarios of clients: runs the commands of mcpp as a person would, and answers its questions at a terminal.

    client.py MCPP URL

The suite says by environment variables which scenario it is, and gives it a server.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

SECONDS = 100

MCPP, URL = sys.argv[1:]


def command(*words: str) -> list[str]:
    return [MCPP, *words, "--url", URL]


def run(*words: str) -> str:
    """A command without a terminal; its output."""
    done = subprocess.run(command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=SECONDS, text=True)
    return done.stdout


def answer(prompt: str) -> str:
    """A person's answer to a question: the default, where there is one."""
    if "[Y]es" in prompt or re.search(r"confirm|ok\b", prompt, re.IGNORECASE):
        return "yes"
    return "" if re.search(r"\[[^\]]*\]: $", prompt) else "Ada"


def at_terminal(*words: str, meanwhile=lambda: None) -> None:
    """A command whose questions are answered. `meanwhile` runs before the first answer."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command(*words), stdin=slave, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    said, deadline = "", time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.1)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            said += os.read(master, 1 << 16).decode(errors="replace")
        except OSError:
            break
        if said.endswith(": "):
            meanwhile()
            meanwhile = lambda: None
            os.write(master, (answer(said.splitlines()[-1]) + "\n").encode())
            said = ""
    process.wait(timeout=SECONDS)


def call(tool: str, arguments: object = None) -> None:
    run("call", tool, json.dumps(arguments or {}))


def names(listing: str, key: str) -> list[str]:
    return [item[key] for item in json.loads(listing or "[]") if key in item]


def everything() -> None:
    """Lists all that the server has, and uses each thing once."""
    for tool in names(run("tools", "--json"), "name"):
        call(tool)
    listed = json.loads(run("resources", "--json") or "{}")
    for resource in listed.get("resources", []) if isinstance(listed, dict) else listed:
        run("read", resource["uri"])
    for prompt in names(run("prompts", "--json"), "name"):
        run("prompt", prompt)


def schema_as_it_came() -> None:
    tools = {tool["name"]: tool for tool in json.loads(run("tools", "--json"))}
    call("json_schema_echo", {"schema": tools["json_schema_2020_12_tool"]["inputSchema"]})


def several_rounds() -> None:
    at_terminal("call", "test_mrtr_echo_state", meanwhile=lambda: call("test_mrtr_unrelated"))
    at_terminal("call", "test_mrtr_no_state")
    call("test_mrtr_no_result_type")


def calls_of_context() -> None:
    for wanted in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        call(wanted["name"], wanted["arguments"])


SCENARIOS = {
    "initialize": lambda: run("tools"),
    "tools_call": lambda: call("add_numbers", {"a": 5, "b": 3}),
    "elicitation-sep1034-client-defaults": lambda: at_terminal("call", "test_client_elicitation_defaults"),
    "sse-retry": lambda: call("test_reconnection"),
    "request-metadata": lambda: at_terminal("tools"),
    "sep-2322-client-request-state": several_rounds,
    "http-standard-headers": everything,
    "http-custom-headers": calls_of_context,
    "http-invalid-tool-headers": lambda: call("valid_tool", {"region": "us-west1"}),
    "json-schema-ref-no-deref": lambda: run("tools"),
    "json-schema-2020-12-preservation": schema_as_it_came,
}

SCENARIOS.get(os.environ["MCP_CONFORMANCE_SCENARIO"], lambda: run("tools"))()

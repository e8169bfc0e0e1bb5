#!/usr/bin/env python3
"""The program's own client at a terminal: what tools, prompts, resources and workflow runs ask is answered there.

    python3 tests/clients/terminal.py target/debug/mcpp target/guests/wasm32-wasip2/guest/conformance.wasm

Each command runs at a pseudo-terminal. What it asks is on the terminal, what it answers on its standard output.
"""

import json
import os
import pathlib
import pty
import select
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).parent))
import serving

PORT = 18448
SECONDS = 60
FORM = {"signal": "ok", "form": {"message": "Shall it go out?", "schema": {"type": "object", "properties": {"note": {"type": "string"}}}}}
STEPS = [
    {"step_id": "ask", "action": "wait", "inputs": FORM},
    {"step_id": "send", "action": "text_hash", "inputs": {"text": "${steps.ask.result.note}"}},
]


def at_terminal(mcpp: str, arguments: list[str], replies: list[tuple[str, str]]) -> str:
    """Runs a command, and types each reply once its question is there. What it answers."""
    ours, its = pty.openpty()
    command = subprocess.Popen([mcpp, *arguments, "--url", serving.url(PORT)], stdin=its, stderr=its, stdout=subprocess.PIPE, text=True)
    os.close(its)
    shown, left, deadline = "", list(replies), time.monotonic() + SECONDS
    while command.poll() is None:
        if time.monotonic() > deadline:
            command.kill()
            sys.exit(f"{arguments} did not end; on the terminal stood:\n{shown}")
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            shown += os.read(ours, 1 << 16).decode(errors="replace")
        except OSError:
            break
        if left and left[0][0] in shown:
            os.write(ours, (left.pop(0)[1] + "\n").encode())
    answer = command.communicate()[0]
    os.close(ours)
    if left:
        sys.exit(f"{arguments} did not ask {left[0][0]!r}; on the terminal stood:\n{shown}")
    return answer


def check(what: str, got: object, wanted: str) -> None:
    if wanted not in str(got):
        sys.exit(f"{what}: {wanted!r} is not in {got!r}")
    print(f"  {what}")


def main() -> None:
    mcpp, guest = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        tools = pathlib.Path(folder, "tools")
        tools.mkdir()
        (tools / "conformance.wasm").write_bytes(pathlib.Path(guest).read_bytes())
        host = serving.start(mcpp, f"{folder}/data", PORT, "--tools", tools)
        try:
            ask = lambda arguments, *replies: at_terminal(mcpp, arguments, list(replies))
            answer = ask(["call", "test_elicitation", "message=Who?"], ("Who?", "ada"), ("email", "ada@example.org"), ("Send this?", "y"))
            check("a tool asks", answer, "ada@example.org")
            answer = ask(["call", "test_elicitation", "message=Who?"], ("Who?", "ada"), ("email", "ada@example.org"), ("Send this?", "n"))
            check("its user says no", answer, "decline")
            answer = ask(["prompt", "test_input_required_result_prompt"], ("What context", "a test"), ("Send this?", "y"))
            check("a prompt asks", answer, "a test")
            answer = ask(["read", "test://asks/terminal"], ("name:", "blue"), ("Send this?", "y"))
            check("a resource asks", answer, "blue")
            run = json.dumps({"workflow_id": "t", "name": "t", "steps": STEPS})
            answer = ask(["call", "workflow_run", run], ("Shall it go out?", "soon"), ("Send this?", "y"))
            check("a workflow asks, and goes on with the values", answer, '\\"completed\\"')
            answer = ask(["read", "workflow://t/steps/ask"])
            check("its result is a resource", answer, '{"note":"soon"}')
            run = json.dumps({"workflow_id": "u", "name": "u", "steps": STEPS})
            answer = ask(["call", "workflow_run", run], ("Shall it go out?", ""), ("Send this?", "n"))
            check("its user says no, and the step has failed", answer, "the user who was asked said no")
        finally:
            host.terminate()
            host.wait()


if __name__ == "__main__":
    main()

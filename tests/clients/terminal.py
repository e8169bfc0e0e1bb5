#!/usr/bin/env python3
"""The program's own client at a terminal: what tools, prompts, resources and workflow runs ask is answered there, and a run is drawn as a tree.

    python3 tests/clients/terminal.py target/debug/mcpp target/guests/wasm32-wasip2/guest/conformance.wasm

Each command runs at a pseudo-terminal. What it asks is on the terminal, what it answers on its standard output.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
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


ROWS, COLUMNS = 10, 60
FAN = [
    {"step_id": "each", "action": "text_hash", "inputs": {"text": "${item}"}, "for_each": {"items": list("abcdefghijkl")}},
    {"step_id": "go", "action": "wait", "inputs": {"signal": "go"}, "depends_on": ["each"]},
    *[{"step_id": f"end{n}", "action": "text_hash", "inputs": {"text": "x"}, "depends_on": ["go"]} for n in range(12)],
]


class Screen:
    """As much of a terminal as the command uses: what stands on it in the end is what a person sees."""

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    def take(self, text: str) -> None:
        for plain, code, kind in re.findall(r"([^\x1b]+)|\x1b\[([0-9;]*)([A-Za-z])", text):
            for character in plain:
                self.put(character)
            if kind == "A":
                self.row = max(self.row - int(code or 1), max(len(self.lines) - ROWS, 0))
            elif kind == "K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif kind == "J":
                del self.lines[self.row + 1 :]
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif kind and kind != "m":
                sys.exit(f"the terminal knows no {kind!r}")

    def put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        else:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1


def follow(mcpp: str, run: str, signal) -> str:
    """Follows a run on a small terminal until it ends. `signal` is called when the run waits."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    command = subprocess.Popen([mcpp, "workflow", "--url", serving.url(PORT), "follow", run], stdin=its, stderr=its, stdout=its, env=environment)
    os.close(its)
    screen, rest, deadline, is_told = Screen(), b"", time.monotonic() + SECONDS, False
    while True:
        if time.monotonic() > deadline:
            command.kill()
            sys.exit("the followed run did not end; on the terminal stood:\n" + "\n".join(screen.lines))
        if select.select([ours], [], [], 0.2)[0]:
            try:
                rest += os.read(ours, 1 << 16)
            except OSError:
                break
            # A sequence or a character may come in two pieces.
            whole = rest.rfind(b"\n") + 1
            screen.take(rest[:whole].decode())
            rest = rest[whole:]
        if not is_told and any("for the signal go" in line for line in screen.lines):
            check("the tree says what a step waits for", "\n".join(screen.lines), "go")
            is_told = True
            signal()
    screen.take(rest.decode())
    os.close(ours)
    if command.wait() != 0:
        sys.exit("the followed run failed:\n" + "\n".join(screen.lines))
    return "\n".join(line.rstrip() for line in screen.lines).rstrip()


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
            call = lambda tool, **arguments: subprocess.run([mcpp, "call", tool, json.dumps(arguments), "--url", serving.url(PORT)], check=True, capture_output=True)
            call("workflow_submit", workflow_id="v", name="v", steps=FAN)
            shown = follow(mcpp, "v", lambda: call("workflow_signal", workflow_id="v", signal="go"))
            check("a followed run ends", shown, "v: completed (completed)")
            check("the tree has the run's steps", shown, "each")
            if len(shown.splitlines()) > ROWS or shown.count("each") != 1 or max(map(len, shown.splitlines())) > COLUMNS:
                sys.exit(f"the tree was not drawn in place, or not within {ROWS} x {COLUMNS}:\n{shown}")
            print("  it is drawn in place, within the terminal")
        finally:
            host.terminate()
            host.wait()


if __name__ == "__main__":
    main()

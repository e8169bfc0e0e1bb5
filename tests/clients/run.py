#!/usr/bin/env python3
"""Other people's clients against the program, over HTTP and stdio.

    run.py MCPP PYTHON NODE NODE_FOLDER
"""

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


def run(*command: object) -> None:
    environment = os.environ | {"MCP_INSPECTOR_SECRET_STORE": "memory"}
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(done.stdout.strip()[:600])


def main() -> None:
    mcpp, python, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    inspector = [node, modules / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"]
    if not inspector[1].exists():
        inspector = [modules / "node_modules/.bin/mcp-inspector"]
    with tempfile.TemporaryDirectory() as data:
        with serving.start(mcpp, f"{data}/http", PORT) as host:
            try:
                run(python, HERE / "client.py", URL)
                run(node, HERE / "client.mjs", modules, URL)
                print("inspector tools/list and tools/call:")
                run(*inspector, "--cli", URL, "--transport", "http", "--method", "tools/list")
                run(*inspector, "--cli", URL, "--transport", "http", "--method", "tools/call", "--tool-name", "text_hash", "--tool-arg", "text=abc")
            finally:
                host.terminate()
        stdio = [mcpp, "serve", "--stdio", "--data", f"{data}/stdio"]
        run(python, HERE / "client.py", *stdio)
        run(node, HERE / "client.mjs", modules, *stdio)


if __name__ == "__main__":
    main()

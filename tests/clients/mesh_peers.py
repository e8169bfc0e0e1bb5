#!/usr/bin/env python3
"""Other people's implementations of libp2p against a host of the mesh.

    mesh_peers.py MCPP PYTHON NODE NODE_FOLDER
"""

import pathlib
import subprocess
import sys
import tempfile

import serving

HERE = pathlib.Path(__file__).parent
PORT, MESH_PORT = 18440, 18441
SECONDS = 120


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def main() -> None:
    # Not resolved: the Python of a virtual environment is a link.
    mcpp, python, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as data:
        config = pathlib.Path(data, "mcpp.toml")
        config.write_text(f'[tools]\nbuiltin = false\n[mesh]\nlisten = ["127.0.0.1:{MESH_PORT}"]\n')
        peer = run(mcpp, "id", "--data", f"{data}/host")
        address = f"/ip4/127.0.0.1/tcp/{MESH_PORT}/p2p/{peer}"
        with serving.start(mcpp, f"{data}/host", PORT, "--config", config) as host:
            try:
                print(run(node, HERE / "mesh_peer.mjs", modules, address))
                print(run(python, HERE / "mesh_peer.py", address))
            finally:
                host.terminate()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Other people's implementations of libp2p and a host of the mesh, in both directions: they run the trace of the task queue's old client, and the host calls a tool of theirs.

    mesh_peers.py MCPP PYTHON NODE NODE_FOLDER
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import serving

HERE = pathlib.Path(__file__).parent
PORT, MESH_PORT, PEER_PORT = 18440, 18441, 18442
SECONDS = 120
# What the operator of the host agreed to use of a foreign peer, which makes no tickets: the record that `mcpp join` would have written.
MEMBERSHIP = '[[memberships]]\npeer = "{peer}"\ntenant = "local"\ntools = ["*"]\nsince = "2026-01-01T00:00:00Z"\n'


def run(*command: object, fails: bool = False) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
    if (done.returncode != 0) != fails:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return (done.stderr if fails else done.stdout).strip()


def call_theirs(mcpp: object, data: str, peer: str, name: str) -> None:
    """The host's own way out: a tool of the foreign peer answers, and one that it does not have is refused."""
    called = ("call", "--data", data, "--peer", peer)
    answer = json.loads(run(mcpp, *called, "echo", "text=hello"))
    if answer != {"echo": "hello", "by": name, "hops": 1}:
        sys.exit(f"{name} answered {answer}")
    refused = run(mcpp, *called, "other", "text=hello", fails=True)
    if "unknown tool" not in refused:
        sys.exit(f"{name} was to refuse an unknown tool: {refused}")
    path = json.loads(run(mcpp, "peers", "--data", data, "--json"))["peers"][peer]["path"]
    print(f"mcpp: called a tool of {name}, {path}")


def use_their_queue(mcpp: object, token: str, peer: str, name: str) -> None:
    """Every tool of the task queue goes to the foreign peer's, in the words of its own client."""
    task = {"task_type": "t", "model_name": "m", "payload": {}}
    requests = [
        ("status", "peer_id", {}),
        ("submit", "peer_id", task),
        ("claim_next", "remote_peer_id", {"worker_id": "w"}),
        ("call_tool", "remote_peer_id", {"tool_name": "t"}),
        ("list_tasks", "remote_peer_id", {}),
        ("get_task", "remote_peer_id", {"task_id": "t"}),
        ("wait_task", "remote_peer_id", {"task_id": "t", "timeout_s": 1}),
        ("complete_task", "remote_peer_id", {"task_id": "t"}),
        ("heartbeat", "remote_peer_id", {"peer_id": "p"}),
        ("cache_get", "remote_peer_id", {"key": "k"}),
        ("cache_set", "remote_peer_id", {"key": "k", "value": 1}),
        ("submit_docker_hub", "remote_peer_id", {"image": "i"}),
        ("submit_docker_github", "remote_peer_id", {"repo_url": "https://example.com/r"}),
    ]
    for tool, address, arguments in requests:
        words = ("call", "--token", token, "--url", f"http://127.0.0.1:{PORT}/mcp", f"p2p_taskqueue_{tool}", json.dumps({**arguments, address: peer}))
        reply = json.loads(run(mcpp, *words))
        submits = tool.startswith("submit")
        if reply.get("ok") is not True or (submits and reply.get("task_id") != "submit-task"):
            sys.exit(f"the queue of {name} answered {tool} with {reply}")
    print(f"mcpp: used the queue of {name} by {len(requests)} tools")


def main() -> None:
    # Not resolved: the Python of a virtual environment is a link.
    mcpp, python, node, modules = (pathlib.Path(argument).absolute() for argument in sys.argv[1:])
    peers = {"js-libp2p": [node, HERE / "mesh_peer.mjs", modules], "py-libp2p": [python, HERE / "mesh_peer.py"]}
    with tempfile.TemporaryDirectory() as data:
        home = f"{data}/host"
        address = f"/ip4/127.0.0.1/tcp/{MESH_PORT}/p2p/{run(mcpp, 'id', '--data', home)}"
        servers, theirs = [], {}
        for offset, (name, command) in enumerate(peers.items()):
            words = [str(word) for word in [*command, "serve", PEER_PORT + offset]]
            servers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            theirs[name] = servers[-1].stdout.readline().strip()
        ids = {name: at.split("/")[-1] for name, at in theirs.items()}
        pathlib.Path(home, "peers.toml").write_text("version = 1\n" + "".join(MEMBERSHIP.format(peer=peer) for peer in ids.values()))
        config = pathlib.Path(data, "mcpp.toml")
        config.write_text(f'[mesh]\nlisten = ["127.0.0.1:{MESH_PORT}"]\npeers = {json.dumps(list(theirs.values()))}\n')
        with serving.start(mcpp, home, PORT, "--config", config) as host:
            try:
                token = run(mcpp, "token", "create", "local", "foreign", "--data", home)
                for name, command in peers.items():
                    print(run(*command, "ping", address))
                    trace = [*command, "trace", address, HERE / "mesh_trace.json"]
                    print(run(*trace, "nobody"))
                    print(run(*trace, "token", token))
                    ticket = run(mcpp, "invite", "--data", home, "--tool", "task_queue.rpc")
                    print(run(*trace, "ticket", ticket))
                    call_theirs(mcpp, home, ids[name], name)
                # One implementation also serves a queue as the programs of before MCP++ do.
                use_their_queue(mcpp, token, ids["py-libp2p"], "py-libp2p")
            finally:
                host.terminate()
                for server in servers:
                    server.stdin.close()
                    server.wait(SECONDS)


if __name__ == "__main__":
    main()

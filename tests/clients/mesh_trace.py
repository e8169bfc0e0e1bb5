"""What a foreign peer asks of the task queue and holds its answers to, and what it answers itself. Nothing here knows what carries it."""

import json
import pathlib

MODERN = "2026-07-28"
# The end of a ticket tells whether it is damaged; its peer need not look.
SUM_BYTES = 4


def initialize() -> dict:
    """The greeting of the task-queue client of before MCP++: no version, no capabilities."""
    client = {"name": "ipfs-accelerate-taskqueue-client", "version": "1.0.0"}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"clientInfo": client, "profiles": ["mcp++/p2p-transport"]}}


def rpc(arguments: dict) -> dict:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "task_queue.rpc", "arguments": arguments}}


def within(wanted: object, found: object) -> bool:
    """Whether all that is wanted was found; a list has exactly as many entries."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(key in found and within(value, found[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(within, wanted, found))
    return wanted == found and type(wanted) is type(found)


class Trace:
    """Steps with names in them, such as $TASK, for what earlier replies had."""

    def __init__(self, path: pathlib.Path, host: str, task_type: str, token: str | None) -> None:
        self.steps = json.loads(path.read_text())
        self.host = host
        self.token = token
        self.names = {"$TYPE": task_type}

    def filled(self, value: object) -> object:
        if isinstance(value, dict):
            return {key: self.filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.filled(inner) for inner in value]
        return self.names.get(value, value) if isinstance(value, str) else value

    def arguments(self, step: dict) -> dict:
        return {**self.filled(step["ask"]), **({"token": self.token} if self.token else {})}

    def check(self, step: dict, reply: dict) -> None:
        content = reply.get("result", {}).get("content")
        # A peer's own right, without a token of the host, does not include what is the operator's.
        reply_of = step["reply"] if self.token else step.get("as_peer", step["reply"])
        wanted = {**self.filled(reply_of), "peer_id": self.host}
        if reply.get("id") != 1 or not within(wanted, content) or not all(name in content for name in step.get("has", [])):
            raise SystemExit(f"{step['ask']['op']}: wanted {wanted} and {step.get('has', [])}, got {reply}")
        for name, field in step.get("keep", {}).items():
            self.names[f"${name}"] = content[field]

    def refused(self, reply: dict) -> None:
        if reply.get("error", {}).get("code") != -32001:
            raise SystemExit(f"a peer without any right is answered with {reply}")


class OldService:
    """One stream of a task-queue service of before MCP++: it wants a greeting, its requests all have the id 1, and its result object is the content."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.greeted = False

    def takes(self, request: dict) -> bool:
        params = request.get("params", {})
        return (request.get("method") == "initialize" and "protocolVersion" not in params) or params.get("name") == "task_queue.rpc"

    def answer(self, request: dict) -> dict:
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if request["method"] == "initialize":
            self.greeted = request["id"] == 1 and "mcp++/p2p-transport" in request["params"]["profiles"]
            return {**reply, "result": {"ok": self.greeted}}
        if not self.greeted:
            return {**reply, "error": {"code": -32000, "message": "init_required"}}
        op = request["params"]["arguments"]["op"]
        content = {
            "ok": True, "peer_id": self.name, "op": op, "task_id": f"{op}-task", "task": None, "tasks": [], "key": "k", "hit": False,
            "value": None, "peer": "p", "scheduler": {}, "tool": "t", "result": {},
        }
        return {**reply, "result": {"content": content}}


def answer(request: dict, name: str) -> dict | None:
    """An MCP server with one tool, in the current binding; none for a notification."""
    if "id" not in request:
        return None
    reply = {"jsonrpc": "2.0", "id": request["id"]}
    params = request.get("params", {})
    meta = params.get("_meta", {})
    if meta.get("io.modelcontextprotocol/protocolVersion") != MODERN or not meta.get("traceparent"):
        return {**reply, "error": {"code": -32602, "message": f"unexpected _meta: {meta}"}}
    if request["method"] != "tools/call":
        return {**reply, "error": {"code": -32601, "message": "method not found"}}
    text = params.get("arguments", {}).get("text")
    if params.get("name") != "echo" or not isinstance(text, str):
        return {**reply, "error": {"code": -32602, "message": f"unknown tool `{params.get('name')}`"}}
    result = {"resultType": "complete", "content": [], "structuredContent": {"echo": text, "by": name, "hops": meta.get("mcpp/hops")}}
    return {**reply, "result": result}

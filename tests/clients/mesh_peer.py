"""py-libp2p and a host, over Noise and yamux.

    mesh_peer.py ping ADDRESS                       identify and ping
    mesh_peer.py trace ADDRESS TRACE token TOKEN    the task queue, operation by operation, with a bearer token
    mesh_peer.py trace ADDRESS TRACE ticket TICKET  the same with a grant, which the ticket gives
    mesh_peer.py trace ADDRESS TRACE nobody         neither: every operation is refused
    mesh_peer.py serve PORT                         an MCP server of its own and an old task-queue service, until standard input ends
"""

import base64
import contextlib
import json
import pathlib
import struct
import sys

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

from mesh_trace import MODERN, SUM_BYTES, OldService, Trace, answer, initialize, rpc

PING = TProtocol("/ipfs/ping/1.0.0")
MCP = TProtocol("/mcp+p2p/1.0.0")
JOIN = TProtocol("/mcpp/join/1.0.0")
SECONDS = 60


async def read_exactly(stream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = await stream.read(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def receive(stream) -> dict:
    (length,) = struct.unpack(">I", await read_exactly(stream, 4))
    return json.loads(await read_exactly(stream, length))


async def send(stream, message: dict) -> None:
    body = json.dumps(message).encode()
    await stream.write(struct.pack(">I", len(body)) + body)


async def ping(host, peer) -> None:
    stream = await host.new_stream(peer, [PING])
    payload = bytes(range(32))
    await stream.write(payload)
    if await stream.read(32) != payload:
        raise SystemExit("the ping came back changed")
    await stream.close()
    stream = await host.new_stream(peer, [IDENTIFY])
    told = parse_identify_response(await read_length_prefixed_protobuf(stream, use_varint_format=True))
    if not told.agent_version.startswith("mcpp/"):
        raise SystemExit(f"the host calls itself {told.agent_version}")
    print(f"py-libp2p: {told.agent_version}, {len(told.protocols)} protocols, pinged")


async def redeem(host, peer, text: str) -> None:
    encoded = text.removeprefix("mcpp-ticket_")
    ticket = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))[:-SUM_BYTES])
    stream = await host.new_stream(peer, [JOIN])
    await send(stream, {name: ticket[name] for name in ("invitation", "secret", "tools")})
    granted = await receive(stream)
    if "granted" not in granted:
        raise SystemExit(f"the ticket was refused: {granted}")
    await stream.close()


async def trace(host, peer, path: str, way: str, secret: str = "") -> None:
    if way == "ticket":
        await redeem(host, peer, secret)
    run = Trace(pathlib.Path(path), str(peer), f"py-{way}", secret if way == "token" else None)
    for step in run.steps:
        # As the old client does: a stream for each request, and the same id twice on it.
        stream = await host.new_stream(peer, [MCP])
        await send(stream, initialize())
        greeted = await receive(stream)
        if greeted["id"] != 1 or greeted["result"]["ok"] is not True:
            raise SystemExit(f"the greeting is answered with {greeted}")
        await send(stream, rpc(run.arguments(step)))
        reply = await receive(stream)
        if way == "nobody":
            run.refused(reply)
        else:
            run.check(step, reply)
        with contextlib.suppress(Exception):
            await stream.close()
    print(f"py-libp2p: {len(run.steps)} operations with {way}")


async def serve(port: int) -> None:
    host = new_host()

    async def answer_all(stream) -> None:
        # The host that dialed may keep the stream, or leave it.
        old = OldService("py-libp2p")
        with contextlib.suppress(Exception):
            while True:
                request = await receive(stream)
                reply = old.answer(request) if old.takes(request) else answer(request, "py-libp2p")
                if reply is not None:
                    await send(stream, reply)

    host.set_stream_handler(MCP, answer_all)
    async with host.run(listen_addrs=[Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]):
        print(f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.get_id()}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


async def main(what: str, *words: str) -> None:
    if what == "serve":
        return await serve(int(words[0]))
    host = new_host()
    with trio.fail_after(SECONDS):
        async with host.run(listen_addrs=[]):
            info = info_from_p2p_addr(Multiaddr(words[0]))
            await host.connect(info)
            await (ping(host, info.peer_id) if what == "ping" else trace(host, info.peer_id, *words[1:]))


assert MODERN
trio.run(main, *sys.argv[1:])

"""py-libp2p against a host: Noise and yamux, identify, ping. `mesh_peer.py ADDRESS`"""

import sys

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

PING = TProtocol("/ipfs/ping/1.0.0")
SECONDS = 30


async def main(address: str) -> None:
    host = new_host()
    with trio.fail_after(SECONDS):
        async with host.run(listen_addrs=[]):
            info = info_from_p2p_addr(Multiaddr(address))
            await host.connect(info)
            stream = await host.new_stream(info.peer_id, [PING])
            payload = bytes(range(32))
            await stream.write(payload)
            if await stream.read(32) != payload:
                raise SystemExit("the ping came back changed")
            await stream.close()
            stream = await host.new_stream(info.peer_id, [IDENTIFY])
            told = parse_identify_response(await read_length_prefixed_protobuf(stream, use_varint_format=True))
            if not told.agent_version.startswith("mcpp/"):
                raise SystemExit(f"the host calls itself {told.agent_version}")
            print(f"py-libp2p: {told.agent_version}, {len(told.protocols)} protocols, pinged")


trio.run(main, sys.argv[1])

// js-libp2p against a host: Noise and yamux, identify, ping. `mesh_peer.mjs NODE_FOLDER ADDRESS`

import { pathToFileURL } from "node:url";

const [folder, address] = process.argv.slice(2);
// These packages have no entry for `require`.
const load = (name) => import(pathToFileURL(`${folder}/node_modules/${name}/dist/src/index.js`));
const [{ createLibp2p }, { tcp }, { noise }, { yamux }, { identify }, { ping }, { multiaddr }] = await Promise.all(
  ["libp2p", "@libp2p/tcp", "@chainsafe/libp2p-noise", "@chainsafe/libp2p-yamux", "@libp2p/identify", "@libp2p/ping", "@multiformats/multiaddr"].map(load),
);
const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() },
});
const target = multiaddr(address);
const connection = await node.dial(target);
const milliseconds = await node.services.ping.ping(target);
const told = await node.services.identify.identify(connection);
const peer = connection.remotePeer.toString();
if (!address.endsWith(peer)) throw new Error(`${peer} answers at ${address}`);
if (!told.agentVersion.startsWith("mcpp/")) throw new Error(`the host calls itself ${told.agentVersion}`);
if (connection.encryption !== "/noise" || connection.multiplexer !== "/yamux/1.0.0") {
  throw new Error(`${connection.encryption} and ${connection.multiplexer}`);
}
console.log(`js-libp2p: ${told.agentVersion}, ${told.protocols.length} protocols, ping ${milliseconds} ms`);
await node.stop();

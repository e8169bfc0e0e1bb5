// js-libp2p and a host, over Noise and yamux. `mesh_peer.mjs NODE_FOLDER WHAT …`, as mesh_peer.py has it.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, what, ...words] = process.argv.slice(2);
const MCP = "/mcp+p2p/1.0.0";
const JOIN = "/mcpp/join/1.0.0";
const MODERN = "2026-07-28";
// The end of a ticket tells whether it is damaged; its peer need not look.
const SUM_BYTES = 4;
// These packages have no entry for `require`.
const load = (name) => import(pathToFileURL(`${folder}/node_modules/${name}/dist/src/index.js`));
const [{ createLibp2p }, { tcp }, { noise }, { yamux }, { identify }, { ping }, { multiaddr }] = await Promise.all(
  ["libp2p", "@libp2p/tcp", "@chainsafe/libp2p-noise", "@chainsafe/libp2p-yamux", "@libp2p/identify", "@libp2p/ping", "@multiformats/multiaddr"].map(load),
);
const node = await createLibp2p({
  addresses: { listen: what === "serve" ? [`/ip4/127.0.0.1/tcp/${words[0]}`] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() },
});

/** The messages of a stream, and a way to send one. */
function framed(stream) {
  const bytes = stream[Symbol.asyncIterator]();
  let held = Buffer.alloc(0);
  const take = async (length) => {
    while (held.length < length) {
      const { value, done } = await bytes.next();
      if (done) throw new Error("the stream has ended");
      held = Buffer.concat([held, value.subarray()]);
    }
    const taken = held.subarray(0, length);
    held = held.subarray(length);
    return taken;
  };
  return {
    receive: async () => JSON.parse(await take((await take(4)).readUInt32BE())),
    send: (message) => {
      const body = Buffer.from(JSON.stringify(message));
      const length = Buffer.alloc(4);
      length.writeUInt32BE(body.length);
      stream.send(Buffer.concat([length, body]));
    },
  };
}

async function pinged(target) {
  const connection = await node.dial(target);
  const milliseconds = await node.services.ping.ping(target);
  const told = await node.services.identify.identify(connection);
  const peer = connection.remotePeer.toString();
  if (!target.toString().endsWith(peer)) throw new Error(`${peer} answers at ${target}`);
  if (!told.agentVersion.startsWith("mcpp/")) throw new Error(`the host calls itself ${told.agentVersion}`);
  if (connection.encryption !== "/noise" || connection.multiplexer !== "/yamux/1.0.0") {
    throw new Error(`${connection.encryption} and ${connection.multiplexer}`);
  }
  console.log(`js-libp2p: ${told.agentVersion}, ${told.protocols.length} protocols, ping ${milliseconds} ms`);
}

/** Whether all that is wanted was found; a list has exactly as many entries. */
function within(wanted, found) {
  if (wanted === null || typeof wanted !== "object") return wanted === found;
  if (found === null || typeof found !== "object" || Array.isArray(wanted) !== Array.isArray(found)) return false;
  if (Array.isArray(wanted) && wanted.length !== found.length) return false;
  return Object.entries(wanted).every(([key, value]) => key in found && within(value, found[key]));
}

async function redeem(target, text) {
  const bytes = Buffer.from(text.replace("mcpp-ticket_", ""), "base64url");
  const { invitation, secret, tools } = JSON.parse(bytes.subarray(0, -SUM_BYTES));
  const stream = await node.dialProtocol(target, JOIN);
  const { send, receive } = framed(stream);
  send({ invitation, secret, tools });
  const answer = await receive();
  if (!answer.granted) throw new Error(`the ticket was refused: ${JSON.stringify(answer)}`);
  await stream.close();
}

async function trace(target, path, way, secret) {
  if (way === "ticket") await redeem(target, secret);
  const steps = JSON.parse(readFileSync(path, "utf8"));
  const names = { $TYPE: `js-${way}` };
  const filled = (value) => {
    if (typeof value === "string") return names[value] ?? value;
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(filled);
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, filled(inner)]));
  };
  const host = target.toString().split("/").pop();
  const clientInfo = { name: "ipfs-accelerate-taskqueue-client", version: "1.0.0" };
  for (const step of steps) {
    // As the old client does: a stream for each request, and the same id twice on it.
    const stream = await node.dialProtocol(target, MCP);
    const { send, receive } = framed(stream);
    send({ jsonrpc: "2.0", id: 1, method: "initialize", params: { clientInfo, profiles: ["mcp++/p2p-transport"] } });
    const greeted = await receive();
    if (greeted.id !== 1 || greeted.result?.ok !== true) throw new Error(`the greeting is answered with ${JSON.stringify(greeted)}`);
    const asked = { ...filled(step.ask), ...(way === "token" ? { token: secret } : {}) };
    send({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "task_queue.rpc", arguments: asked } });
    const reply = await receive();
    if (way === "nobody") {
      if (reply.error?.code !== -32001) throw new Error(`a peer without any right is answered with ${JSON.stringify(reply)}`);
    } else {
      const content = reply.result?.content;
      // A peer's own right, without a token of the host, does not include what is the operator's.
      const wanted = { ...filled(way === "token" ? step.reply : (step.as_peer ?? step.reply)), peer_id: host };
      if (reply.id !== 1 || !within(wanted, content) || !(step.has ?? []).every((name) => name in content)) {
        throw new Error(`${step.ask.op}: wanted ${JSON.stringify(wanted)} and ${step.has ?? []}, got ${JSON.stringify(reply)}`);
      }
      for (const [name, field] of Object.entries(step.keep ?? {})) names[`$${name}`] = content[field];
    }
    await stream.close().catch(() => {});
  }
  console.log(`js-libp2p: ${steps.length} operations with ${way}`);
}

/** An MCP server with one tool, in the current binding; nothing for a notification. */
function answer(request) {
  if (!("id" in request)) return undefined;
  const reply = { jsonrpc: "2.0", id: request.id };
  const { _meta: meta = {}, name, arguments: given = {} } = request.params ?? {};
  if (meta["io.modelcontextprotocol/protocolVersion"] !== MODERN || !meta.traceparent) {
    return { ...reply, error: { code: -32602, message: `unexpected _meta: ${JSON.stringify(meta)}` } };
  }
  if (request.method !== "tools/call") return { ...reply, error: { code: -32601, message: "method not found" } };
  if (name !== "echo" || typeof given.text !== "string") {
    return { ...reply, error: { code: -32602, message: `unknown tool \`${name}\`` } };
  }
  const structuredContent = { echo: given.text, by: "js-libp2p", hops: meta["mcpp/hops"] };
  return { ...reply, result: { resultType: "complete", content: [], structuredContent } };
}

async function serve() {
  await node.handle(MCP, async (stream) => {
    const { send, receive } = framed(stream);
    try {
      for (;;) {
        const reply = answer(await receive());
        if (reply !== undefined) send(reply);
      }
    } catch {
      // The host that dialed has left the stream.
    }
  });
  const address = node.getMultiaddrs().find((own) => own.toString().includes("/127.0.0.1/"));
  console.log(address.toString());
  await new Promise((ended) => process.stdin.resume().on("end", ended));
}

if (what === "serve") await serve();
else if (what === "ping") await pinged(multiaddr(words[0]));
else await trace(multiaddr(words[0]), ...words.slice(1));
await node.stop();

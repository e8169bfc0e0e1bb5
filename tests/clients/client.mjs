// The TypeScript SDKs (v1: legacy; v2: both eras) against mcpp: list the tools and call one. `client.mjs MODULES URL` or `client.mjs MODULES COMMAND ARGUMENT…` (stdio).
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, ...target] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));

const EXPECTED = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const overHttp = target[0].startsWith("http");

async function use(name, client, transport) {
  await client.connect(transport);
  const { tools } = await client.listTools();
  const result = await client.callTool({ name: "text_hash", arguments: { text: "abc" } });
  assert.equal(result.structuredContent.digest, EXPECTED);
  const names = tools.map((tool) => tool.name).sort();
  console.log(`${name}: ${names.join(", ")}; text_hash → ${result.structuredContent.digest.slice(0, 12)}…`);
  await client.close();
}

const info = { name: "test", version: "0" };

const v1 = await load("@modelcontextprotocol/sdk/client/index.js");
if (overHttp) {
  const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
  await use("typescript v1, legacy", new v1.Client(info), new StreamableHTTPClientTransport(new URL(target[0])));
} else {
  const { StdioClientTransport } = await load("@modelcontextprotocol/sdk/client/stdio.js");
  await use("typescript v1 over stdio, legacy", new v1.Client(info), new StdioClientTransport({ command: target[0], args: target.slice(1), stderr: "ignore" }));
}

const v2 = await load("@modelcontextprotocol/client");
for (const [name, options] of [
  ["legacy", {}],
  ["auto", { versionNegotiation: { mode: "auto" } }],
  ["2026-07-28", { versionNegotiation: { mode: { pin: "2026-07-28" } } }],
]) {
  if (overHttp) {
    await use(`typescript v2, ${name}`, new v2.Client(info, options), new v2.StreamableHTTPClientTransport(new URL(target[0])));
  }
}
process.exit(0);

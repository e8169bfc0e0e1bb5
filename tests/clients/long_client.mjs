// The TypeScript SDKs call a tool that takes longer than they wait, and get its whole answer. `long_client.mjs MODULES URL SECONDS PATIENCE`.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, url, seconds, patience] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const options = { timeout: Number(patience) * 1000 };

async function use(name, client, transport, call) {
  await client.connect(transport);
  let result = await call("slow_compute", { seconds: Number(seconds), label: name });
  let waits = 0;
  for (; result.structuredContent?.status === "working"; waits++) {
    result = await call("task_wait", { task: result.structuredContent.task });
  }
  assert.equal(result.content[0].text, `computed ${name}`);
  assert.ok(waits > 1, `${waits} waits`);
  console.log(`${name}: the whole answer after ${waits} calls of task_wait`);
  await client.close();
}

const info = { name: "test", version: "0" };
const all = [];

const v1 = await load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = await load("@modelcontextprotocol/sdk/client/streamableHttp.js");
const first = new v1.Client(info);
const call = (name, args) => first.callTool({ name, arguments: args }, undefined, options);
all.push(use("typescript v1", first, new StreamableHTTPClientTransport(new URL(url)), call));

const v2 = await load("@modelcontextprotocol/client");
for (const [name, negotiation] of [
  ["legacy", {}],
  ["2026-07-28", { versionNegotiation: { mode: { pin: "2026-07-28" } } }],
]) {
  const client = new v2.Client(info, negotiation);
  const call = (name, args) => client.callTool({ name, arguments: args }, options);
  all.push(use(`typescript v2, ${name}`, client, new v2.StreamableHTTPClientTransport(new URL(url)), call));
}
await Promise.all(all);
process.exit(0);

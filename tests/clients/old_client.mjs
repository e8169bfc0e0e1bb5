// An old TypeScript SDK against mcpp: all that its client can do. `old_client.mjs MODULES VERSION PROTOCOL URL` (HTTP or WebSocket) or `… COMMAND ARGUMENT…` (stdio).
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, version, protocol, ...target] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const load = (name) => import(pathToFileURL(require.resolve(`@modelcontextprotocol/sdk-${version}/${name}`)));

const EXPECTED = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const door = { "http:": "HTTP", "ws:": "WebSocket" }[target[0].match(/^\w+:/)?.[0]] ?? "stdio";
const { Client } = await load("client/index.js");
const types = await load("types.js");

async function transport() {
  if (door === "WebSocket") {
    const { WebSocketClientTransport } = await load("client/websocket.js");
    return new WebSocketClientTransport(new URL(target[0]));
  }
  if (door === "stdio") {
    const { StdioClientTransport } = await load("client/stdio.js");
    return new StdioClientTransport({ command: target[0], args: target.slice(1) });
  }
  const { StreamableHTTPClientTransport } = await load("client/streamableHttp.js");
  return new StreamableHTTPClientTransport(new URL(target[0]));
}

const client = new Client({ name: "test", version: "0" }, { capabilities: {} });
const wrong = [];
client.onerror = (error) => wrong.push(error);
const logged = [];
const hears = new Promise((heard) => client.setNotificationHandler(types.LoggingMessageNotificationSchema, (message) => heard(logged.push(message))));
let changes = 0;
if (types.ToolListChangedNotificationSchema) client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => changes++);

const carrier = await transport();
const connecting = client.connect(carrier);
// The client shows nobody which version was agreed on.
let agreed;
const receive = carrier.onmessage;
carrier.onmessage = (message, ...extra) => {
  agreed ??= message.result?.protocolVersion;
  return receive(message, ...extra);
};
await connecting;
assert.equal(agreed, protocol);
assert.equal(client.getServerVersion().name, "mcpp");
await client.ping();

const tools = [];
let pages = 0;
for (let cursor; pages === 0 || cursor; pages++) {
  const page = await client.listTools({ cursor });
  tools.push(...page.tools);
  cursor = page.nextCursor;
}
assert(pages > 1, `${tools.length} tools on one page`);
assert.equal(new Set(tools.map((tool) => tool.name)).size, tools.length);

const call = (name, args, options) => client.callTool({ name, arguments: args }, types.CallToolResultSchema, options);
const hashed = await call("text_hash", { text: "abc" });
assert(!hashed.isError && hashed.content[0].text.includes(EXPECTED), JSON.stringify(hashed));
assert.deepEqual(hashed.structuredContent?.digest ?? EXPECTED, EXPECTED);
assert.equal((await call("test_simple_text")).content[0].text, "This is a simple text response for testing.");
assert.equal((await call("test_image_content", {})).content[0].mimeType, "image/png");
assert.equal((await call("test_error_handling", {})).isError, true);
await assert.rejects(call("nothing", {}), { code: -32602 });

await client.setLoggingLevel("debug");
await call("test_tool_with_logging", {});
await hears;

const progress = [];
await call("test_tool_with_progress", {}, { onprogress: (report) => progress.push(report.progress) });
assert.deepEqual(progress, [0, 50, 100]);

const unwanted = new AbortController();
const sleeping = call("probe_sleep", { ms: 60_000 }, { signal: unwanted.signal });
await client.ping();
unwanted.abort("no reason");
await assert.rejects(sleeping);
await client.ping();

// This SDK reports whatever its own close aborts as an error; the answer to the cancelled call may be among it.
assert.deepEqual(wrong.map(String), []);
await client.close();
console.log(`typescript ${version} over ${door}, ${protocol}: ${tools.length} tools on ${pages} pages; ${logged.length} records, ${changes} changes of the list`);
process.exit(0);

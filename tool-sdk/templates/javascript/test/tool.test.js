import assert from "node:assert/strict";
import { test } from "node:test";
import { greet } from "../src/tool.js";

test("greets by name", () => {
  assert.equal(greet("World"), "Hello, World!");
  assert.throws(() => greet(""));
});

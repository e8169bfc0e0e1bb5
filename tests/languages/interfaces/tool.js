import config from "wasi:config/store@0.2.0-rc.1";
import keyvalue from "wasi:keyvalue/store@0.2.0-draft";
import logging from "wasi:logging/logging@0.1.0-draft";

// The engine has no files and no TextEncoder of its own.
export function keep(value) {
  const bucket = keyvalue.open("");
  bucket.set("kept", Uint8Array.from(value, (character) => character.charCodeAt(0)));
  logging.log("warn", "javascript", value);
  return `${String.fromCharCode(...bucket.get("kept"))}, ${config.get("region")}`;
}

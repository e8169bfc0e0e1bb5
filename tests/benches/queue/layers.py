#!/usr/bin/env python3
"""Where the processor time of a serving host goes, by layer, from a profile of its process.

    perf record -F 499 --call-graph dwarf,16384 -p PID -o FILE -- sleep 5
    perf script -i FILE -F comm,ip,sym,dso | layers.py

A sample belongs to the innermost frame that one of the layers knows; machine code without a file is the guests'.
"""

import collections
import re
import sys

LAYERS = [
    ("store: commit and flush", r"redb::|fdatasync|store::embedded::(commit|file|disk)|ext4_|blk_"),
    ("store: transactions in memory", r"mcpp::store|mcpp::capability::store|mcpp::events|imbl::|archery::"),
    ("instance: made and taken away", r"instantiate|Instantiator|pooling_allocator|MemoryImageSlot|InstancePre|wasmtime.*::drop|drop_in_place<wasmtime|wasmtime_wasi::.*(new|build)|Store.*::new|fiber|StackPool|PoolingInstanceAllocator|mcpp::capability::state"),
    ("guest and host: arguments and results", r"wasmtime|mcpp::(engine|control|guest|plain|capability)"),
    ("registry: checks and admission", r"mcpp::(registry|call|tenant|grants)|jsonschema"),
    ("door: HTTP and protocol", r"hyper|axum|rmcp|mcpp::mcp|serde|tower|http::|httparse|tcp_|sock|h1::|writev|recv|tokio::net|tokio::io|chrono|uuid|bytes::"),
    ("logs and metrics", r"tracing|metrics"),
    ("threads: waking, waiting, scheduling", r"tokio::|futex|epoll|schedule|park|eventfd|mio::|task_switch|hrtimer"),
]
KNOWN = [(name, re.compile(pattern)) for name, pattern in LAYERS]
GUEST, OTHER = "guest: its own code", "other"
FRAME = re.compile(r"^\s+[0-9a-f]+ (.*) \((.*)\)$")


def layer(frames):
    for symbol, file in frames:
        if file.startswith("[JIT]") or "/perf-" in file or file == "//anon":
            return GUEST
        for name, pattern in KNOWN:
            if pattern.search(symbol):
                return name
    return OTHER


def main():
    counts, frames = collections.Counter(), []
    for line in sys.stdin:
        if match := FRAME.match(line):
            frames.append(match.groups())
        elif not line.strip() and frames:
            counts[layer(frames)] += 1
            frames = []
    total = sum(counts.values())
    if total == 0:
        sys.exit("no samples on standard input")
    for name, count in counts.most_common():
        print(f"{name:<40} {100 * count / total:5.1f} %")


if __name__ == "__main__":
    main()

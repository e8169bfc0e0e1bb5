"""An old Python SDK, whichever is imported, against mcpp: all that its client can do. `old_client.py VERSION PROTOCOL URL` or `… COMMAND ARGUMENT…` (stdio)."""

import asyncio
import contextlib
import inspect
import sys

from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client

EXPECTED = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
PATIENCE = 60


class Heard:
    """Messages of the server that no request asked for."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.progress: list[float] = []

    async def message(self, message: object) -> None:
        assert not isinstance(message, Exception), f"the SDK could not read a message: {message!r}"
        self.methods.append(message.root.method)

    async def on_progress(self, progress: float, total: float | None, *_text: object) -> None:
        self.progress.append(progress)

    async def until(self, method: str) -> None:
        while method not in self.methods:
            await asyncio.sleep(0.01)


async def listen(session: ClientSession, heard: Heard) -> None:
    """The first SDKs hand over what they hear, and stop when nobody takes it."""
    async for message in session.incoming_messages:
        await heard.message(message)


@contextlib.asynccontextmanager
async def connect(target: list[str], heard: Heard):
    if target[0].startswith("http"):
        from mcp.client.streamable_http import streamablehttp_client

        transport = streamablehttp_client(target[0])
    else:
        transport = stdio_client(StdioServerParameters(command=target[0], args=target[1:]))
    options = {"message_handler": heard.message} if "message_handler" in inspect.signature(ClientSession).parameters else {}
    async with transport as streams, ClientSession(streams[0], streams[1], **options) as session:
        listening = None if options else asyncio.create_task(listen(session, heard))
        yield session
        if listening:
            listening.cancel()


async def list_tools(session: ClientSession, over_http: bool) -> list[types.Tool]:
    """All that these can: the first knows no pages, and the next writes the cursor beside the params (modelcontextprotocol/python-sdk#735)."""
    page = await session.list_tools()
    assert page.nextCursor, "all on one page"
    # Over HTTP a refusal ends the session of this one.
    if "cursor" in inspect.signature(session.list_tools).parameters and not over_http:
        try:
            await session.list_tools(cursor=page.nextCursor)
        except McpError as refused:
            assert "belongs into" in str(refused), refused
        else:
            raise AssertionError("the first page again")
    return page.tools


async def use(version: str, protocol: str, target: list[str]) -> None:
    heard, over_http = Heard(), target[0].startswith("http")
    async with connect(target, heard) as session:
        opened = await session.initialize()
        assert opened.protocolVersion == protocol, opened
        assert opened.serverInfo.name == "mcpp", opened
        await session.send_ping()
        tools = await list_tools(session, over_http)
        assert tools and all(tool.name and tool.inputSchema["type"] == "object" for tool in tools), tools
        hashed = await session.call_tool("text_hash", {"text": "abc"})
        assert not hashed.isError and EXPECTED in hashed.content[0].text, hashed
        text = await session.call_tool("test_simple_text")
        assert (text.content[0].type, text.content[0].text) == ("text", "This is a simple text response for testing."), text
        image = await session.call_tool("test_image_content")
        assert (image.content[0].type, image.content[0].mimeType) == ("image", "image/png"), image
        failed = await session.call_tool("test_error_handling", {})
        assert failed.isError and "intentionally" in failed.content[0].text, failed
        try:
            raise AssertionError(await session.call_tool("nothing"))
        except McpError as refused:
            assert "unknown tool" in str(refused), refused
        await session.set_logging_level("debug")
        await session.call_tool("test_tool_with_logging", {})
        await asyncio.wait_for(heard.until("notifications/message"), PATIENCE)
        if "progress_callback" in inspect.signature(session.call_tool).parameters:
            await session.call_tool("test_tool_with_progress", {}, progress_callback=heard.on_progress)
            assert heard.progress == [0, 50, 100], heard.progress
        # Over HTTP 1.8.0 sends nothing before it has the answer.
        if hasattr(types, "CancelledNotification") and not (over_http and version == "1.8.0"):
            await cancel(session)
        await session.send_ping()
    print(f"python mcp {version} over {'HTTP' if over_http else 'stdio'}, {protocol}: {len(tools)} tools; heard {sorted(set(heard.methods))}")


async def cancel(session: ClientSession) -> None:
    """The SDK leaves it to its user to say which request is not wanted any more."""
    request = session._request_id
    waiting = asyncio.create_task(session.call_tool("probe_sleep", {"ms": 60_000}))
    while session._request_id == request:
        await asyncio.sleep(0.01)
    params = types.CancelledNotificationParams(requestId=request, reason="no reason")
    await session.send_notification(types.ClientNotification(types.CancelledNotification(method="notifications/cancelled", params=params)))
    # A cancelled request has no answer.
    await session.send_ping()
    assert not waiting.done(), waiting.exception() or waiting.result()
    waiting.cancel()


asyncio.run(asyncio.wait_for(use(sys.argv[1], sys.argv[2], sys.argv[3:]), PATIENCE))

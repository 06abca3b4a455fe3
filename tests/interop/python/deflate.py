"""Holds a running broker with `deflate.enabled` to RFC 7692 with a client not written here: Python's
`websockets`, which inflates with zlib in exactly the window that was agreed on.

    python deflate.py ws://127.0.0.1:7600/ws WINDOW_BITS

WINDOW_BITS are the broker's `deflate.window_bits`.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

URL, BROKER_BITS = sys.argv[1], int(sys.argv[2])

OFFERS = [
    {},
    {"client_max_window_bits": True},
    {"client_max_window_bits": 9},
    {"server_max_window_bits": 15, "client_max_window_bits": 12},
    {"server_max_window_bits": 12},
    {"server_max_window_bits": 9, "client_max_window_bits": True},
    {"server_no_context_takeover": True, "client_no_context_takeover": True},
]

# Some that shrink, some longer than any window, some that repeat themselves far back.
FAR = [index * 2654435761 % (1 << 24) for index in range(3000)]
VALUES = ["all work and no play " * 60, {"text": "grüß dich 👋 " * 3000}, [FAR, FAR, FAR], "short"]


class Peer:
    """A connection that knows whether its last message came compressed."""

    @classmethod
    async def open(cls, offer):
        factories = None if offer is None else [ClientPerMessageDeflateFactory(**offer)]
        peer = cls()
        peer.socket = await connect(
            URL, subprotocols=["fanfare.json.v1"], compression=None, extensions=factories, max_size=None
        )
        extensions = peer.socket.protocol.extensions
        assert [extension.name for extension in extensions] == ([] if offer is None else ["permessage-deflate"])
        peer.is_compressed = False
        if extensions:
            (extension,) = extensions
            assert extension.remote_no_context_takeover and extension.local_no_context_takeover
            asked = offer.get("server_max_window_bits", 15)
            assert extension.remote_max_window_bits == min(asked, BROKER_BITS), extension
            decode = extension.decode

            def note(frame, **options):
                peer.is_compressed = frame.rsv1
                return decode(frame, **options)

            extension.decode = note
        assert (await peer.next())["op"] == "hello"
        return peer

    async def next(self):
        return json.loads(await self.socket.recv())

    async def ask(self, command):
        await self.socket.send(json.dumps(command))
        return await self.next()


async def publications(number, offer):
    topic = f"python/deflate/{number}"
    publisher, subscriber, plain = await Peer.open(offer), await Peer.open(offer), await Peer.open(None)
    for peer in [subscriber, plain]:
        assert (await peer.ask({"op": "subscribe", "topic": topic, "id": 1}))["op"] == "ok"
    for seq, data in enumerate(VALUES, 1):
        ok = await publisher.ask({"op": "publish", "topic": topic, "data": data, "id": 2})
        assert ok == {"op": "ok", "id": 2, "topic": topic, "seq": seq}, ok
        message = {"op": "message", "topic": topic, "seq": seq, "data": data}
        assert await subscriber.next() == message
        assert await plain.next() == message
        expected = offer.get("server_max_window_bits", 15) >= BROKER_BITS and data != "short"
        assert subscriber.is_compressed == expected, (offer, seq)
    # In fragments, compressed as they come.
    text = json.dumps({"op": "publish", "topic": topic, "data": VALUES[1], "id": 3}, ensure_ascii=False)
    await publisher.socket.send([text[:10], "", text[10:5000], text[5000:]])
    assert (await publisher.next())["seq"] == len(VALUES) + 1
    assert (await subscriber.next())["data"] == VALUES[1]
    for peer in [publisher, subscriber, plain]:
        await peer.socket.close()
        assert peer.socket.close_code == 1000


async def a_bomb_is_closed_with_1009():
    peer = await Peer.open({})
    try:
        await peer.socket.send("0" * 10_000_000)
        await peer.next()
    except ConnectionClosed as closed:
        assert closed.rcvd.code == 1009, closed
    else:
        raise AssertionError("it was taken")


async def main():
    for number, offer in enumerate(OFFERS):
        await asyncio.wait_for(publications(number, offer), 30)
    await asyncio.wait_for(a_bomb_is_closed_with_1009(), 30)


asyncio.run(main())

"""Holds a running broker to the protocol with a client not written here: Python's `websockets`.

    python check.py ws://127.0.0.1:7600/ws

When everything but the last check has passed it prints "restart", and expects the broker to be stopped.
"""

import asyncio
import json
import re
import struct
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

URL = sys.argv[1]
JSON_FLAG = 1
EXT_FLAG = 2
PUBLISH, MESSAGE, SUBSCRIBE, OK, ERROR, PING, PONG = 1, 2, 4, 6, 7, 9, 10
HEAD = struct.Struct(">BBHQ")


async def open_peer(*subprotocols):
    """A connection, and its hello."""
    socket = await connect(URL, subprotocols=subprotocols or None, max_size=None, ping_interval=None)
    assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
    message = await socket.recv()
    hello = json.loads(split(message)[4] if isinstance(message, bytes) else message)
    assert hello["op"] == "hello", hello
    return socket, hello


async def ask(socket, command):
    await socket.send(json.dumps(command))
    return json.loads(await socket.recv())


def body(kind, flags, seq, topic, payload):
    """A body of fanfare.bin.v1."""
    name = topic.encode()
    return HEAD.pack(kind, flags, len(name), seq) + name + payload


def batch(*bodies):
    return b"\0\0" + b"".join(struct.pack(">I", len(bytes_)) + bytes_ for bytes_ in bodies)


def split(message):
    """A body as (kind, flags, seq, topic, payload)."""
    kind, flags, topic_len, seq = HEAD.unpack_from(message)
    topic_start = HEAD.size
    if flags & EXT_FLAG:
        topic_start += 2 + int.from_bytes(message[HEAD.size : HEAD.size + 2])
    topic_end = topic_start + topic_len
    return kind, flags, seq, message[topic_start:topic_end].decode(), message[topic_end:]


async def close_code(socket):
    """What the broker closes with, after what it may still say."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        return closed.rcvd.code, closed.rcvd.reason


async def commands_and_messages_in_json():
    for subprotocol in ["fanfare.json.v1", None]:
        socket, hello = await open_peer(*[subprotocol] if subprotocol else [])
        topic = f"python/{subprotocol}"
        data = {"text": "grüß dich 👋", "list": [1, -2.5, None, 10**30]}
        ok = await ask(socket, {"op": "subscribe", "topic": topic, "id": 1})
        assert ok == {"op": "ok", "id": 1, "topic": topic, "seq": 0, "epoch": hello["epoch"]}, ok
        message = await ask(socket, {"op": "publish", "topic": topic, "data": data})
        assert message == {"op": "message", "topic": topic, "seq": 1, "data": data}, message
        ok = await ask(socket, {"op": "unsubscribe", "topic": topic, "id": "x"})
        assert ok == {"op": "ok", "id": "x", "topic": topic}, ok
        ok = await ask(socket, {"op": "publish", "topic": topic, "data": data, "id": 3})
        assert ok == {"op": "ok", "id": 3, "topic": topic, "seq": 2}, ok
        error = await ask(socket, {"op": "unsubscribe", "topic": topic, "id": 4})
        assert (error["op"], error["code"], error["id"]) == ("error", "not_subscribed", 4), error
        await socket.send("{")
        assert json.loads(await socket.recv())["code"] == "bad_message"
        await socket.close(1000, "bye")
        assert (socket.close_code, socket.close_reason) == (1000, "")


async def bodies_and_batches_in_binary():
    socket, _ = await open_peer("fanfare.bin.v1")
    subscribe = json.dumps({"op": "subscribe", "topic": "python/bin", "id": 1}).encode()
    await socket.send(body(SUBSCRIBE, 0, 0, "", subscribe))
    kind, _, _, _, payload = split(await socket.recv())
    assert kind == OK and json.loads(payload)["seq"] == 0, payload
    await socket.send(
        batch(
            body(PUBLISH, 0, 0, "python/bin", b"\x00\xff\x80"),
            body(PUBLISH, JSON_FLAG, 0, "python/bin", b'{"a": 1}'),
        )
    )
    assert split(await socket.recv()) == (MESSAGE, 0, 1, "python/bin", b"\x00\xff\x80")
    assert split(await socket.recv()) == (MESSAGE, JSON_FLAG, 2, "python/bin", b'{"a": 1}')
    await socket.send(body(PUBLISH, JSON_FLAG, 7, "python/bin", b"{"))
    kind, _, _, _, payload = split(await socket.recv())
    assert kind == ERROR and json.loads(payload)["code"] == "bad_message", payload
    await socket.send(body(PING, 0, 0, "", b'{"op":"ping","id":8}'))
    assert split(await socket.recv())[0] == PONG
    await socket.close()
    assert socket.close_code == 1000


async def a_message_in_fragments_and_pings():
    socket, _ = await open_peer("fanfare.json.v1")
    await socket.send(['{"op":"pi', "", 'ng","id":"', "ä" * 20, '"}'])
    assert json.loads(await socket.recv()) == {"op": "pong", "id": "ä" * 20}
    for payload in [b"", b"x" * 125]:
        await (await socket.ping(payload))
    await socket.close()


async def a_thousand_publications_arrive_once_and_in_order():
    publisher, _ = await open_peer("fanfare.json.v1")
    subscriber, _ = await open_peer("fanfare.json.v1")
    await ask(subscriber, {"op": "subscribe", "topic": "python/#", "id": 1})
    for number in range(1, 1001):
        await publisher.send(json.dumps({"op": "publish", "topic": "python/many", "data": number}))
    for number in range(1, 1001):
        message = json.loads(await subscriber.recv())
        assert (message["seq"], message["data"]) == (number, number), message
    await publisher.close()
    await subscriber.close()


async def the_longest_message_passes_and_a_longer_one_is_closed_with_1009():
    socket, hello = await open_peer("fanfare.json.v1")

    def command(length):
        text = '{"op":"publish","topic":"python/long","id":1,"data":""}'
        return text.replace('""', f'"{"x" * (length - len(text))}"')

    await socket.send(command(hello["max_message"]))
    assert json.loads(await socket.recv())["seq"] == 1
    await socket.send(command(hello["max_message"] + 1))
    assert (await close_code(socket))[0] == 1009


async def a_message_of_the_wrong_kind_is_closed_with_1003():
    for subprotocol, message in [("fanfare.json.v1", b"bytes"), ("fanfare.bin.v1", "text")]:
        socket, _ = await open_peer(subprotocol)
        await socket.send(message)
        assert (await close_code(socket))[0] == 1003


async def subprotocols_that_the_broker_does_not_know_are_refused():
    try:
        await connect(URL, subprotocols=["mqtt", "stomp"])
    except InvalidStatus as refused:
        assert refused.response.status_code == 400
        assert b"fanfare.json.v1" in refused.response.body
    else:
        raise AssertionError("it was accepted")


async def a_restart_closes_with_1012_and_says_when_to_come_back():
    sockets = [(await open_peer(subprotocol))[0] for subprotocol in ["fanfare.json.v1", "fanfare.bin.v1"]]
    print("restart", flush=True)
    for socket in sockets:
        code, reason = await close_code(socket)
        assert code == 1012 and re.fullmatch(r"retry_after_ms=\d+", reason), (code, reason)


async def main():
    for check in [
        commands_and_messages_in_json,
        bodies_and_batches_in_binary,
        a_message_in_fragments_and_pings,
        a_thousand_publications_arrive_once_and_in_order,
        the_longest_message_passes_and_a_longer_one_is_closed_with_1009,
        a_message_of_the_wrong_kind_is_closed_with_1003,
        subprotocols_that_the_broker_does_not_know_are_refused,
        a_restart_closes_with_1012_and_says_when_to_come_back,
    ]:
        await asyncio.wait_for(check(), 30)


asyncio.run(main())

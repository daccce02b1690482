"""WebSocket as its own library speaks it, and a client that keeps to no rule.

    websocket.py serve          an echo by `websockets`; prints its port, and serves until it is ended
    websocket.py call ADDRESS   sends every case (after those of Autobahn's suite) to ADDRESS, each over a
                                connection of its own; prints what came back, byte for byte, as JSON
"""

import asyncio
import base64
import json
import os
import socket
import struct
import sys
import zlib

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
# Waits for an answer: a server that reads a message and its own end at once may not give one.
HEAR = object()


def frame(opcode, payload=b"", fin=True, rsv=0, mask=b"\1\2\3\4", length=None):
    """One frame of a client; `length` is how its length is written: 7, 16 or 64 bits."""
    size = len(payload)
    length = length or (7 if size < 126 else 16 if size < 65536 else 64)
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    bit = 0x80 if mask else 0
    if length == 7:
        head += bytes([bit | size])
    elif length == 16:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not mask:
        return head + payload
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def close(code=1000, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def cases():
    """Bytes of each case, in the parts in which they are sent."""
    end = close()
    # 1: sizes, in one write and in small ones.
    for opcode, name in ((TEXT, "text"), (BINARY, "binary")):
        for size in (0, 1, 125, 126, 127, 128, 65535, 65536):
            whole = frame(opcode, b"*" * size)
            piece = 1 if size < 1000 else 997
            pieces = [whole[i : i + piece] for i in range(0, len(whole), piece)]
            yield f"1 {name} {size}", [whole, HEAR, end]
            yield f"1 {name} {size} in parts", [*pieces, HEAR, end]
    # 2: pings and pongs.
    for size in (0, 1, 125, 126):
        yield f"2 ping {size}", [frame(PING, b"p" * size), HEAR, end]
        yield f"2 pong {size}", [frame(PONG, b"p" * size) + end]
    yield "2 ten pings", [b"".join(frame(PING, b"%d" % n) for n in range(10)), HEAR, end]
    # 3: reserved bits.
    for rsv in range(1, 8):
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
            yield f"3 rsv {rsv} on {opcode}", [frame(TEXT, b"before"), HEAR, frame(opcode, b"", rsv=rsv)]
    # 4: opcodes that are none.
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"reserved"):
            yield f"4 opcode {opcode} {len(payload)}", [frame(TEXT, b"before"), HEAR, frame(opcode, payload)]
    # 5: fragments.
    for parts in (2, 3, 10):
        for opcode in (TEXT, BINARY):
            whole = [frame(opcode, b"0", fin=False)]
            whole += [frame(0, b"%d" % n, fin=n == parts - 1) for n in range(1, parts)]
            yield f"5 {parts} fragments of {opcode}", [b"".join(whole), HEAR, end]
            yield f"5 {parts} fragments of {opcode}, one by one", [*whole, HEAR, end]
            pinged = frame(PING, b"between").join(whole)
            yield f"5 {parts} fragments of {opcode} with pings", [pinged, HEAR, end]
    for opcode in (CLOSE, PING, PONG):
        yield f"5 a fragmented {opcode}", [frame(opcode, b"", fin=False) + frame(0, b"x") + end]
    yield "5 a continuation of nothing", [frame(0, b"x") + end]
    yield "5 a continuation of nothing, unfinished", [frame(0, b"x", fin=False) + end]
    yield "5 a message within a message", [frame(TEXT, b"a", fin=False) + frame(TEXT, b"b") + end]
    # 6: texts that are no UTF-8, whole and in fragments, cut between any two bytes.
    texts = {
        "greek": "κόσμε".encode(),
        "beyond": "\U00010000\U0010ffff".encode(),
        "overlong": b"\xc0\xaf",
        "surrogate": b"\xed\xa0\x80",
        "too high": b"\xf4\x90\x80\x80",
        "cut": b"\xce\xba\xe1\xbd",
        "no start": b"\x80\xbf",
        "impossible": b"\xfe\xff",
    }
    for name, text in texts.items():
        yield f"6 {name}", [frame(TEXT, text), HEAR, end]
        for at in range(1, len(text)):
            parts = [frame(TEXT, text[:at], fin=False), frame(0, text[at:])]
            yield f"6 {name} cut at {at}", [*parts, HEAR, end]
    # 7: closing.
    yield "7 without a code", [frame(CLOSE)]
    yield "7 half a code", [frame(CLOSE, b"\3")]
    yield "7 a long reason", [close(1000, b"r" * 123)]
    yield "7 too long a reason", [close(1000, b"r" * 124)]
    yield "7 a reason that is no UTF-8", [close(1000, b"\xce\xba\xe1\xbd")]
    yield "7 a message after it", [end + frame(TEXT, b"late")]
    yield "7 a ping after it", [end + frame(PING, b"late")]
    yield "7 twice", [end + end]
    for code in (0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012,
                 1013, 1014, 1015, 1016, 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535):
        yield f"7 code {code}", [close(code)]
    # 9: large, in frames of many sizes.
    for size in (64 << 10, 1 << 20, 4 << 20):
        for piece in (4096, 65536, size):
            pieces = [b"#" * min(piece, size - at) for at in range(0, size, piece)]
            whole = [frame(BINARY if n == 0 else 0, p, fin=n == len(pieces) - 1) for n, p in enumerate(pieces)]
            yield f"9 {size} in frames of {piece}", [b"".join(whole), HEAR, end]
    # 10: lengths written longer than they are, frames without a mask, and no end at all.
    yield "10 length in 16 bits", [frame(TEXT, b"short", length=16), HEAR, end]
    yield "10 length in 64 bits", [frame(TEXT, b"short", length=64), HEAR, end]
    yield "10 length over 63 bits", [b"\x81\xff" + b"\xff" * 8 + b"\1\2\3\4"]
    yield "10 no mask", [frame(TEXT, b"bare", mask=None) + end]
    yield "10 half a frame, and the end", [frame(TEXT, b"half a frame")[:7], None]
    # 12: compressed, where that was agreed on.
    for size in (16, 1000, 100000):
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(b"z" * size) + packer.flush(zlib.Z_SYNC_FLUSH)
        yield f"12 deflate {size}", [frame(TEXT, packed[:-4], rsv=4), HEAR, end]


def connect(address, case):
    host, port = address.rsplit(":", 1)
    client = socket.create_connection((host, int(port)), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    extensions = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
    client.sendall((
        "GET /echo HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        f"{extensions if case.startswith('12') else ''}\r\n"
    ).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), (case, head)
    return client


def run(address, case, parts):
    client = connect(address, case)
    got = b""
    try:
        for part in parts:
            if part is None:
                client.shutdown(socket.SHUT_WR)
            elif part is HEAR:
                got += client.recv(1 << 16)
            else:
                client.sendall(part)
        while piece := client.recv(1 << 16):
            got += piece
    except ConnectionError:
        # Whoever closes with bytes unread resets, and then it is chance what still arrives.
        pass
    client.close()
    return base64.b64encode(zlib.compress(got)).decode()


async def serve():
    from websockets.asyncio.server import serve as listen

    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with listen(echo, "127.0.0.1", 0, max_size=8 << 20, compression="deflate",
                      close_timeout=2) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if sys.argv[1] == "serve":
    import logging

    logging.disable(logging.CRITICAL)
    asyncio.run(serve())
else:
    print(json.dumps({case: run(sys.argv[2], case, parts) for case, parts in cases()}))

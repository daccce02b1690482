"""gRPC as its own library speaks it: a server with every kind of call, and a client that says what it got.

    interop.py serve            prints its port, and serves until it is ended
    interop.py call ADDRESS     makes each call through ADDRESS; prints what came of it as JSON
    interop.py cancel ADDRESS N begins N calls and gives them up; prints how many the server saw given up
"""

import concurrent.futures
import hashlib
import json
import sys
import threading
import time

import grpc

LARGE = 100 << 20
OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
]
CANCELLED = []


def unary(request, context):
    """Gives back what came, with its metadata in head and trailers."""
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-head", sent.get("x-ascii", "none"))])
    context.set_trailing_metadata(
        [("x-trailer", "last"), ("x-bytes-bin", sent.get("x-bytes-bin", b""))]
    )
    return request


def fail(request, context):
    """A status and a text, as the request says; nothing else is sent."""
    code, text = json.loads(request)
    context.set_trailing_metadata([("x-details-bin", b"\x00\xff\x01")])
    context.abort([c for c in grpc.StatusCode if c.value[0] == code][0], text)


def digest(request, context):
    return f"{len(request)} {hashlib.sha256(request).hexdigest()}".encode()


def large(request, context):
    return bytes(int(request))


def slow(request, context):
    left = context.time_remaining()
    done = threading.Event()
    context.add_callback(done.set)
    done.wait(20)
    CANCELLED.append(left)
    return b"late"


def gave_up(request, context):
    return str(len(CANCELLED)).encode()


def many(request, context):
    for n in range(int(request)):
        yield str(n).encode()


def many_then_fail(request, context):
    yield b"first"
    yield b"second"
    context.abort(grpc.StatusCode.DATA_LOSS, "halfway")


def gather(requests, context):
    return b",".join(requests)


def talk(requests, context):
    for request in requests:
        yield b"re: " + request


def squeezed(request, context):
    context.set_compression(grpc.Compression.Gzip)
    return request


KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Digest": grpc.unary_unary_rpc_method_handler(digest),
    "Large": grpc.unary_unary_rpc_method_handler(large),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "GaveUp": grpc.unary_unary_rpc_method_handler(gave_up),
    "Squeezed": grpc.unary_unary_rpc_method_handler(squeezed),
    "Many": grpc.unary_stream_rpc_method_handler(many),
    "ManyThenFail": grpc.unary_stream_rpc_method_handler(many_then_fail),
    "Gather": grpc.stream_unary_rpc_method_handler(gather),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
}


def serve():
    handler = grpc.method_handlers_generic_handler("test.Interop", KINDS)
    pool = concurrent.futures.ThreadPoolExecutor(128)
    server = grpc.server(pool, handlers=(handler,), options=OPTIONS)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def told(call):
    """What a call that is over came to."""
    own = lambda pairs: sorted(
        (key, value if isinstance(value, str) else value.hex())
        for key, value in pairs or ()
        if key.startswith("x-") and not key.startswith("x-request")
    )
    return {
        "code": call.code().name,
        "details": call.details(),
        "head": own(call.initial_metadata()),
        "trailers": own(call.trailing_metadata()),
    }


def unary_call(channel, method, request, **options):
    call = channel.unary_unary(f"/test.Interop/{method}").future(request, timeout=60, **options)
    result = None
    try:
        result = call.result()
        result = result.decode() if len(result) < 200 else f"{len(result)} bytes"
    except grpc.RpcError:
        pass
    return {**told(call), "result": result}


def stream_call(call):
    got = []
    try:
        got.extend(part.decode() for part in call)
    except grpc.RpcError:
        pass
    return {**told(call), "result": got}


def ping_pong(channel):
    """Each message waits for the answer to the one before."""
    turn = threading.Semaphore(1)

    def requests():
        for n in range(20):
            turn.acquire()
            yield str(n).encode()

    got = []
    call = channel.stream_stream("/test.Interop/Talk")(requests(), timeout=60)
    for part in call:
        got.append(part.decode())
        turn.release()
    return {**told(call), "result": got}


def deadline(channel):
    began = time.monotonic()
    call = channel.unary_unary("/test.Interop/Slow").future(b"", timeout=0.5)
    try:
        call.result()
    except grpc.RpcError:
        pass
    return {"code": call.code().name, "soon": time.monotonic() - began < 5}


def given_up(channel, cases):
    """How many calls the server has seen given up, once it has seen them all."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        seen = int(channel.unary_unary("/test.Interop/GaveUp")(b"", timeout=30))
        if seen >= cases:
            return seen
    return seen


def cancel_stream(channel):
    call = channel.unary_stream("/test.Interop/Many")(b"100000000", timeout=60)
    first = next(call).decode()
    call.cancel()
    return {"code": call.code().name, "first": first}


def calls(address):
    channel = grpc.insecure_channel(
        address, options=OPTIONS + [("grpc.default_authority", "app")]
    )
    names = [b"x" * 10, "\N{SNOWMAN} 100 %\n".encode()]
    metadata = [("x-ascii", "said"), ("x-bytes-bin", bytes(range(256)))]
    results = {
        "empty": unary_call(channel, "Unary", b""),
        "unary": unary_call(channel, "Unary", b"hello", metadata=metadata),
        "much metadata": unary_call(channel, "Unary", b"", metadata=[("x-ascii", "m" * 6000)]),
        "unknown method": unary_call(channel, "Nothing", b""),
        "large request": unary_call(channel, "Digest", bytes(LARGE)),
        "large answer": unary_call(channel, "Large", str(LARGE).encode()),
        "compressed": unary_call(
            channel, "Squeezed", b"z" * 100000, compression=grpc.Compression.Gzip
        ),
        "many": stream_call(channel.unary_stream("/test.Interop/Many")(b"500", timeout=60)),
        "none": stream_call(channel.unary_stream("/test.Interop/Many")(b"0", timeout=60)),
        "halfway": stream_call(channel.unary_stream("/test.Interop/ManyThenFail")(b"")),
        "gather": unary_future(
            channel.stream_unary("/test.Interop/Gather").future(iter(names), timeout=60)
        ),
        "gather nothing": unary_future(
            channel.stream_unary("/test.Interop/Gather").future(iter(()), timeout=60)
        ),
        "ping pong": ping_pong(channel),
        "deadline": deadline(channel),
        "cancelled stream": cancel_stream(channel),
    }
    for code in range(1, 17):
        request = json.dumps([code, "why \N{SNOWMAN} 100 %"]).encode()
        results[f"status {code}"] = unary_call(channel, "Fail", request)
    # The one whose deadline passed.
    results["given up"] = given_up(channel, 1)
    return results


def unary_future(call):
    try:
        result = call.result().decode()
    except grpc.RpcError:
        result = None
    return {**told(call), "result": result}


def cancel(address, count):
    channel = grpc.insecure_channel(address, options=[("grpc.default_authority", "app")])
    slow = channel.unary_unary("/test.Interop/Slow")
    before = int(channel.unary_unary("/test.Interop/GaveUp")(b"", timeout=30))
    for _ in range(count // 50):
        running = [slow.future(b"", timeout=60) for _ in range(50)]
        for call in running:
            call.cancel()
    return {"answers": channel.unary_unary("/test.Interop/Unary")(b"on", timeout=30).decode(),
            "before": before}


if sys.argv[1] == "serve":
    serve()
elif sys.argv[1] == "call":
    print(json.dumps(calls(sys.argv[2])))
else:
    print(json.dumps(cancel(sys.argv[2], int(sys.argv[3]))))

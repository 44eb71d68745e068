"""grpc_client.py PORT: makes calls of all kinds, and prints what they gave."""

import hashlib
import sys
from concurrent import futures

import grpc

port = sys.argv[1]
options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]


def channel():
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)


def block(n, length):
    return hashlib.sha256(str(n).encode()).digest() * (length // 32)


def digest(parts):
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def one(number):
    with channel() as connection:
        same = connection.unary_unary("/Test/same")
        small = [same(block(i, 64)) for i in range(400)]
        assert small == [block(i, 64) for i in range(400)]
        large = block(number, 20 << 20)
        assert same(large, timeout=120) == large
        sent = connection.stream_unary("/Test/upload")(block(i, 100_000) for i in range(100))
        got = digest(connection.unary_stream("/Test/download")(b"200"))
        back = digest(connection.stream_stream("/Test/chat")(block(i, 3200 + 32 * i) for i in range(300)))
        return f"{sent.decode()} {got} {back}"


with futures.ThreadPoolExecutor(3) as pool:
    for result in pool.map(one, range(3)):
        print(result)
with channel() as connection:
    print(connection.unary_unary("/Test/end")(b"").decode())

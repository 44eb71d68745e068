"""grpc_server.py PORT: four kinds of calls, without generated code; `end` ends it."""

import sys
import threading
from concurrent import futures

import grpc

over = threading.Event()


def same(request, context):
    return request


def upload(requests, context):
    lengths = [len(part) for part in requests]
    return f"{len(lengths)} {sum(lengths)}".encode()


def download(request, context):
    for i in range(int(request)):
        yield bytes([i % 251]) * 50_000


def chat(requests, context):
    for part in requests:
        yield part[::-1]


def end(request, context):
    over.set()
    return b"over"


server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 64 << 20)])
calls = {
    "same": grpc.unary_unary_rpc_method_handler(same),
    "upload": grpc.stream_unary_rpc_method_handler(upload),
    "download": grpc.unary_stream_rpc_method_handler(download),
    "chat": grpc.stream_stream_rpc_method_handler(chat),
    "end": grpc.unary_unary_rpc_method_handler(end),
}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", calls),))
if server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}") == 0:
    sys.exit("no port")
server.start()
over.wait()
server.stop(10).wait()

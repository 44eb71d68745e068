"""Clients of echo.py: ask.py PORT CONNECTIONS MIB sends MIB on each connection at the same time
as it receives, after some small requests, and compares the hashes."""

import hashlib
import random
import socket
import sys
import threading

port, connections, mib = (int(a) for a in sys.argv[1:])
good = []


def send(sock, sent, seed):
    source = random.Random(seed)
    block = source.randbytes(1 << 20)
    for i in range(mib):
        part = block[i:] + block[:i]
        sent.update(part)
        sock.sendall(part)
    sock.shutdown(socket.SHUT_WR)


def ask(seed):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for i in range(100):
            sock.sendall(b"%04d" % i)
            assert sock.recv(4, socket.MSG_WAITALL) == b"%04d" % i
        sent, received = hashlib.sha256(), hashlib.sha256()
        sender = threading.Thread(target=send, args=(sock, sent, seed))
        sender.start()
        while data := sock.recv(1 << 18):
            received.update(data)
        sender.join()
        good.append(sent.digest() == received.digest())


threads = [threading.Thread(target=ask, args=(i,)) for i in range(connections)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(f"{sum(good)} of {connections} the same")

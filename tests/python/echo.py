"""Echo servers as Python programs are: echo.py asyncio|threads PORT."""

import asyncio
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    await server.serve_forever()


kind, port = sys.argv[1], int(sys.argv[2])
if kind == "asyncio":
    asyncio.run(serve(port))
else:
    Server(("127.0.0.1", port), Echo).serve_forever()

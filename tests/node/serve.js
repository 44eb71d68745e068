// serve.js HTTP HTTP2 ECHO FILE: a server on each of three ports; the last knows half-open
// connections. `/end` ends it.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const net = require('net');
const { pipeline } = require('stream');

const [port, port2, portEcho] = process.argv.slice(2).map(Number);
const file = process.argv[5];

const fail = (error) => {
  if (error) throw error;
};

const server = http.createServer((request, response) => {
  const [path, query] = request.url.split('?');
  switch (path) {
    case '/small':
      response.setHeader('Content-Type', 'application/json');
      return response.end(JSON.stringify({ n: Number(query), even: query % 2 === 0 }));
    case '/file':
      response.setHeader('Content-Length', fs.statSync(file).size);
      return pipeline(fs.createReadStream(file), response, fail);
    case '/echo': // chunked, both directions at once
      return pipeline(request, response, fail);
    case '/hash': {
      const hash = crypto.createHash('sha256');
      return pipeline(request, hash, (error) => {
        fail(error);
        response.end(hash.digest('hex'));
      });
    }
    case '/drip': { // many small chunks, each written by itself
      let left = 500;
      const drop = () => (left-- > 0 ? response.write(`${left},`, () => setImmediate(drop)) : response.end());
      return drop();
    }
    case '/end':
      response.setHeader('Connection', 'close');
      response.end('over');
      for (const one of [server, second, echo]) one.close();
      return;
    default:
      response.statusCode = 404;
      response.end();
  }
});

const second = http2.createServer();
second.on('stream', (stream) => {
  stream.respond({ ':status': 200 });
  stream.on('error', fail).pipe(stream);
});

// Answers only when the other direction has ended.
const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
  const parts = [];
  socket.on('data', (part) => parts.push(part));
  socket.on('end', () => socket.end(Buffer.concat(parts)));
});

// The first port last: who waits for it finds all three.
second.listen(port2, '127.0.0.1', () =>
  echo.listen(portEcho, '127.0.0.1', () => server.listen(port, '127.0.0.1')));

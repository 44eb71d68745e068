// ask.js HTTP HTTP2 ECHO FILE: asks serve.js everything that it can do, and prints what came back.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const net = require('net');
const { pipeline } = require('stream/promises');
const { once } = require('events');

const [port, port2, portEcho] = process.argv.slice(2).map(Number);
const file = process.argv[5];
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

async function digest(stream) {
  const hash = crypto.createHash('sha256');
  let length = 0;
  for await (const part of stream) {
    hash.update(part);
    length += part.length;
  }
  return `${length} ${hash.digest('hex')}`;
}

async function text(stream) {
  stream.setEncoding('utf8');
  let all = '';
  for await (const part of stream) all += part;
  return all;
}

async function ask(path, method = 'GET', body = undefined) {
  const request = http.request({ port, host: '127.0.0.1', path, method, agent });
  const answered = once(request, 'response');
  if (body) pipeline(body, request).catch((error) => { throw error; });
  else request.end();
  const [response] = await answered;
  if (response.statusCode !== 200) throw new Error(`${path}: ${response.statusCode}`);
  return response;
}

async function many() {
  let sum = 0;
  const one = async (n) => {
    const { n: same, even } = JSON.parse(await text(await ask(`/small?${n}`)));
    if (same !== n || even !== (n % 2 === 0)) throw new Error(`${n} came back as ${same}`);
    sum += n;
  };
  for (let i = 0; i < 500; i++) await one(i);
  // More at once than there are connections: they are used again in turn.
  for (let i = 0; i < 500; i += 50) {
    await Promise.all(Array.from({ length: 50 }, (_, k) => one(i + k)));
  }
  return sum;
}

async function second() {
  const session = http2.connect(`http://127.0.0.1:${port2}`);
  const streams = Array.from({ length: 8 }, () => {
    const stream = session.request({ ':method': 'POST', ':path': '/' });
    fs.createReadStream(file, { end: (4 << 20) - 1 }).pipe(stream);
    return digest(stream);
  });
  const all = new Set(await Promise.all(streams));
  session.close();
  await once(session, 'close');
  return [...all].join(' and ');
}

async function halfOpen() {
  const socket = net.connect({ port: portEcho, host: '127.0.0.1', allowHalfOpen: true });
  const sent = pipeline(fs.createReadStream(file, { end: (3 << 20) - 1 }), socket, { end: false });
  await sent;
  socket.end();
  return digest(socket);
}

async function main() {
  console.log('many', await many());
  console.log('file', await digest(await ask('/file')));
  const both = ['/file', '/file', '/drip', '/drip'].map(async (p) => digest(await ask(p)));
  console.log('at once', (await Promise.all(both)).join(', '));
  console.log('hash', await text(await ask('/hash', 'POST', fs.createReadStream(file))));
  console.log('echo', await digest(await ask('/echo', 'POST', fs.createReadStream(file))));
  console.log('http2', await second());
  console.log('half open', await halfOpen());
  console.log('end', await text(await ask('/end')));
  agent.destroy();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

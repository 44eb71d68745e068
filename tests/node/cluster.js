// cluster.js PORT FILE: an HTTP server whose primary accepts, and passes each connection on to one of
// two workers. `/end` ends it.
'use strict';
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');

const port = Number(process.argv[2]);
const file = process.argv[3];

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  for (let i = 0; i < 2; i++) cluster.fork();
  cluster.on('message', (worker, word) => {
    if (word === 'end') cluster.disconnect();
  });
} else {
  const server = http.createServer((request, response) => {
    const [path, query] = request.url.split('?');
    switch (path) {
      case '/small':
        return response.end(`${query}\n`);
      case '/big':
        response.setHeader('Content-Length', fs.statSync(file).size);
        return fs.createReadStream(file).pipe(response);
      default:
        response.setHeader('Connection', 'close');
        return response.end('', () => process.send('end'));
    }
  });
  server.listen(port, '127.0.0.1');
}

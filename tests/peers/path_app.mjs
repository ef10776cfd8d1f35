// An app that reads paths with the parsers of Node.js.
//
//     node path_app.mjs NAME
//
// Listens on a free port of 127.0.0.1 and prints `ready URL`. The answer to a request for `/admin`, or for a path below
// `/admin`, is `admin`. The answer to every other request is `other`.
//
// - `url`: parses the target as a URL, decodes the path, and removes dot segments and empty segments.
// - `windows`: decodes each octet as a Latin-1 character, and reads the path as a path of Windows, which ignores case.
import http from 'node:http';
import path from 'node:path';
import querystring from 'node:querystring';

const readers = {
  url: target => {
    const { pathname } = new URL(target, 'http://localhost');
    return path.posix.normalize(querystring.unescape(pathname));
  },
  windows: target => {
    const decoded = unescape(target.split('?')[0]);
    return path.win32.normalize(decoded).toLowerCase().replaceAll('\\', '/');
  },
};

const read = readers[process.argv[2]];
const server = http.createServer((request, response) => {
  let name = '';
  try {
    name = read(request.url);
  } catch {
    response.statusCode = 400;
  }
  response.end(name === '/admin' || name.startsWith('/admin/') ? 'admin' : 'other');
});
server.listen(0, '127.0.0.1', () => console.log(`ready http://127.0.0.1:${server.address().port}`));

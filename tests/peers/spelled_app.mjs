// An app that reads different spellings of a path as one path, with the functions of JavaScript.
//
//     node spelled_app.mjs NAME
//
// Listens on a free port of 127.0.0.1 and prints `ready URL`. The answer to a request for `/kiosk` or `/café`, or for a path
// below them, is `protected`. The answer to every other request is `other`.
//
// - `regex`: a regular expression with the flags `i` and `u`.
// - `lower`: the lower case, composed (NFC), of each segment without white space.
// - `upper`: the upper case, decomposed (NFD).
// - `compatible`: the normal form NFKC in lower case.
import http from 'node:http';

const names = ['kiosk', 'caf\u00e9'];
const pattern = new RegExp(`^/(${names.join('|')})(/|$)`, 'iu');
const first = path => path.split('/')[1] ?? '';
const compared = convert => path => names.some(name => convert(name) === convert(first(path)));
const readers = {
  regex: path => pattern.test(path),
  lower: compared(text => text.trim().normalize('NFC').toLowerCase()),
  upper: compared(text => text.normalize('NFD').toUpperCase()),
  compatible: compared(text => text.normalize('NFKC').toLowerCase().trim()),
};

const isProtected = readers[process.argv[2]];
const server = http.createServer((request, response) => {
  let found = false;
  try {
    found = isProtected(decodeURIComponent(request.url.split('?')[0]));
  } catch {
    response.statusCode = 400;
  }
  response.end(found ? 'protected' : 'other');
});
server.listen(0, '127.0.0.1', () => console.log(`ready http://127.0.0.1:${server.address().port}`));

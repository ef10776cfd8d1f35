// npm `oauth2-mock-server`: a mock of an OpenID Provider, which many projects use in their tests.
//
//   node mock_server.mjs NODE_MODULES
//
// Listens on a free port of 127.0.0.1 and prints `ready ISSUER`. The mock has no login page and accepts every client.
// The environment variable ACCESS_TTL sets the lifetime of access tokens in seconds. The mock writes its own
// lifetime of one hour into the tokens, so only `expires_in` changes.
import * as path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules] = process.argv.slice(2);
const main = path.join(modules, 'oauth2-mock-server/dist/index.mjs');
const { OAuth2Server } = await import(pathToFileURL(main));

const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
await server.start(0, '127.0.0.1');
const { port } = server.address();
server.issuer.url = `http://127.0.0.1:${port}`;
const claims = { email: 'alice@example.test', email_verified: true, groups: ['staff'] };
server.service.on('beforeTokenSigning', (token) => Object.assign(token.payload, { sub: 'alice' }, claims));
server.service.on('beforeUserinfo', (response) => {
  response.body = { sub: 'alice', ...claims };
});
server.service.on('beforeResponse', (response) => {
  if (process.env.ACCESS_TTL && response.body.expires_in) response.body.expires_in = Number(process.env.ACCESS_TTL);
});
console.log(`ready ${server.issuer.url}`);

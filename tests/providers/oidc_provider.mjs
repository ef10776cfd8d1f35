// A real OpenID Provider (npm `oidc-provider`) with a client for each case of the tests.
//
//   node oidc_provider.mjs NODE_MODULES SECRET_FILE KEY_FILE
//
// Listens on a free port of 127.0.0.1 and prints `ready ISSUER`. The client secret of all clients is
// written to SECRET_FILE, the private key of the client `private_key_jwt` to KEY_FILE. Any login name
// and any password is accepted. CLIENTS below lists the clients. Refresh tokens rotate, and reuse of a refresh
// token ends the login. The environment variable ACCESS_TTL sets the lifetime of access tokens in seconds.
//
// A test can control the server on the same port:
//   POST /_ctl/fault {"path": "/token", "status": 503, "count": 1}   gives the next requests this answer
//   POST /_ctl/rotate-keys   new signing keys; the old ones leave the key set
//   POST /_ctl/backchannel {"client": "public", "url": "http://..."}   sends logout tokens of this client to this URL
//   GET  /_ctl/hits          requests for each path so far
import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import * as http from 'node:http';
import { createRequire } from 'node:module';
import * as path from 'node:path';

const [modules, secretFile, keyFile] = process.argv.slice(2);
const { Provider } = createRequire(path.join(modules, 'index.js'))('oidc-provider');

console.info = () => {};
console.warn = () => {};

const REDIRECT_URIS = [
  'http://localhost/oauth2/callback', 'http://localhost/oauth2/callback/one', 'http://localhost/oauth2/callback/two',
];
const RESOURCE = 'https://api.example.test/';
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'EdDSA'];

// These characters have to be form-encoded for a Basic field (RFC 6749 section 2.3.1).
const secret = 'p:ss%w+rd/with=odd&chars-0123456789';
fs.writeFileSync(secretFile, secret, { mode: 0o600 });
const clientKey = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
fs.writeFileSync(keyFile, clientKey.privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });

function newKey(alg) {
  const kinds = { ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] };
  const { privateKey } = crypto.generateKeyPairSync(...(kinds[alg] ?? ['rsa', { modulusLength: 2048 }]));
  return { ...privateKey.export({ format: 'jwk' }), kid: crypto.randomBytes(6).toString('hex'), use: 'sig', alg };
}
let keys = ALGORITHMS.map(newKey);

const client = (client_id, token_endpoint_auth_method, more) => ({
  client_id,
  token_endpoint_auth_method,
  redirect_uris: REDIRECT_URIS,
  post_logout_redirect_uris: ['http://localhost/oauth2/signed_out'],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  ...more,
});
const withSecret = (client_id, more, method = 'client_secret_basic') => client(client_id, method, { client_secret: secret, ...more });
const CLIENTS = [
  withSecret('client_secret_basic'),
  withSecret('client_secret_post', {}, 'client_secret_post'),
  withSecret('client_secret_jwt', {}, 'client_secret_jwt'),
  client('private_key_jwt', 'private_key_jwt', {
    token_endpoint_auth_signing_alg: 'ES256',
    jwks: { keys: [{ ...clientKey.publicKey.export({ format: 'jwk' }), kid: 'client-key', use: 'sig', alg: 'ES256' }] },
  }),
  client('public', 'none'),
  ...ALGORITHMS.map((alg) => withSecret(alg, { id_token_signed_response_alg: alg })),
  // Its tokens and userinfo have a claim of 6000 characters.
  withSecret('huge'),
  // Its userinfo is a JWT.
  withSecret('signed_userinfo', { userinfo_signed_response_alg: 'ES256' }),
  // Its access tokens are JWTs for RESOURCE. The userinfo endpoint refuses them.
  withSecret('jwt_access_token'),
];

const padding = (clientId) => (clientId === 'huge' ? { pad: 'x'.repeat(6000) } : {});

async function findAccount(ctx, sub) {
  const claims = {
    sub,
    name: `User ${sub}`,
    preferred_username: sub,
    email: `${sub}@example.test`,
    email_verified: true,
    groups: sub === 'admin' ? ['staff', 'admins'] : ['staff'],
    ...padding(ctx.oidc.client?.clientId),
  };
  return { accountId: sub, claims: async () => claims };
}

const configuration = () => ({
  adapter: Memory,
  jwks: { keys },
  clients: CLIENTS,
  findAccount,
  cookies: { keys: ['a key for cookies of tests'] },
  claims: {
    openid: ['sub'], profile: ['name', 'preferred_username', 'pad'], email: ['email', 'email_verified'], groups: ['groups'],
  },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'none'],
  pkce: { required: () => true },
  enabledJWA: { idTokenSigningAlgValues: ALGORITHMS, userinfoSigningAlgValues: ALGORITHMS },
  extraTokenClaims: (ctx, token) => padding(token.clientId),
  // By default the provider opens no connection to a loopback address.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  features: {
    backchannelLogout: { enabled: true },
    claimsParameter: { enabled: true },
    devInteractions: { enabled: true },
    jwtUserinfo: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx, of) => (['huge', 'jwt_access_token'].includes(of.clientId) ? RESOURCE : undefined),
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: 'api:read', audience: RESOURCE, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } }),
    },
  },
  issueRefreshToken: async () => true,
  rotateRefreshToken: true,
  // By default an expired token is valid for another 15 seconds.
  clockTolerance: 0,
  ...(process.env.ACCESS_TTL && { ttl: { AccessToken: Number(process.env.ACCESS_TTL) } }),
  renderError(ctx, out) { ctx.type = 'json'; ctx.body = out; },
});

// Survives the provider, which is created again when keys change.
const store = new Map();
class Memory {
  constructor(model) { this.model = model; }
  key(id) { return `${this.model}:${id}`; }
  async upsert(id, value) {
    store.set(this.key(id), value);
    if (value.uid) store.set(`uid:${this.model}:${value.uid}`, id);
  }
  async find(id) { return store.get(this.key(id)); }
  async findByUid(uid) { return this.find(store.get(`uid:${this.model}:${uid}`)); }
  async findByUserCode() { return undefined; }
  async consume(id) { store.get(this.key(id)).consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { store.delete(this.key(id)); }
  async revokeByGrantId(grant) {
    for (const [key, value] of store) if (value.grantId === grant && !key.startsWith('Grant:')) store.delete(key);
  }
}

let faults = [];
const hits = {};

async function control(name, request) {
  let text = '';
  for await (const piece of request) text += piece;
  if (name === 'hits') return hits;
  if (name === 'fault') {
    faults.push(JSON.parse(text));
    return faults;
  }
  if (name === 'rotate-keys') {
    keys = ALGORITHMS.map(newKey);
    provide();
    return keys.map((key) => key.kid);
  }
  if (name === 'backchannel') {
    const { client: id, url } = JSON.parse(text);
    const changed = CLIENTS.find((one) => one.client_id === id);
    Object.assign(changed, { backchannel_logout_uri: url, backchannel_logout_session_required: true });
    provide();
    return changed.client_id;
  }
  throw new Error(`no control ${name}`);
}

async function answer(request, response) {
  const { pathname } = new URL(request.url, issuer);
  if (pathname.startsWith('/_ctl/')) {
    response.setHeader('content-type', 'application/json');
    return response.end(JSON.stringify(await control(pathname.slice(6), request)));
  }
  hits[pathname] = (hits[pathname] ?? 0) + 1;
  const fault = faults.find((one) => one.path === pathname);
  if (!fault) return serve(request, response);
  fault.count -= 1;
  faults = faults.filter((one) => one.count > 0);
  response.writeHead(fault.status, { 'content-type': 'text/html' });
  return response.end('<h1>not now</h1>');
}

let serve;
let issuer;
function provide() { serve = new Provider(issuer, configuration()).callback(); }

const server = http.createServer(answer);
server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  provide();
  process.stdout.write(`ready ${issuer}\n`);
});

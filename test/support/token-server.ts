/** A small token server for `docker-registry`: Basic in, a signed token out (distribution, "Token Authentication"). */
import { randomUUID, sign, X509Certificate } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface TokenServer {
  /** Where tokens are given: the registry's `realm`. */
  realm: string;
  /** How often a token was asked for, with a login or without. */
  asked: { login: number; anonymous: number };
  close(): void;
}

/** Starts it. It knows one login and signs with the key of the given certificate, both PEM. */
export async function startTokenServer(options: {
  login: { username: string; password: string };
  key: string;
  cert: string;
  issuer: string;
}): Promise<TokenServer> {
  const { login, key, cert, issuer } = options;
  const expected = `Basic ${Buffer.from(`${login.username}:${login.password}`).toString('base64')}`;
  const asked = { login: 0, anonymous: 0 };
  const server: Server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '', 'http://localhost');
    const known = request.headers.authorization === expected;
    asked[known ? 'login' : 'anonymous'] += 1;
    const scopes = known ? searchParams.getAll('scope') : [];
    const access = scopes.map((scope) => {
      const [type, name, actions = ''] = scope.split(':');
      return { type, name, actions: actions.split(',') };
    });
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      ...{ iss: issuer, sub: login.username, aud: searchParams.get('service') },
      ...{ exp: now + 300, nbf: now - 10, iat: now, jti: randomUUID(), access },
    };
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ token: signed(claims, key, cert), expires_in: 300 }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    realm: `http://127.0.0.1:${port}/token`,
    asked,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A JSON Web Token by ES256, its certificate in the header. */
function signed(claims: object, key: string, cert: string): string {
  const header = { typ: 'JWT', alg: 'ES256', x5c: [new X509Certificate(cert).raw.toString('base64')] };
  const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const signature = sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' });
  return `${text}.${signature.toString('base64url')}`;
}

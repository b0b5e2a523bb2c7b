/**
 * A throw-away certificate authority and a server certificate for 127.0.0.1, ::1 and localhost, made by `openssl`
 * in a temporary directory. For tests only; keys aren't protected.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Certificates {
  /** The authority's certificate in PEM, and the path of the file that holds it. */
  readonly ca: string;
  readonly caPath: string;
  /** The server's key and certificate in PEM: what `startRegistry({ tls })` takes. */
  readonly key: string;
  readonly cert: string;
  readonly keyPath: string;
  readonly certPath: string;
  /** Deletes the directory. */
  remove(): void;
}

/** Null when there is `openssl`, else why a test that needs it is skipped. */
export function whyNoCertificates(): string | null {
  return spawnSync('openssl', ['version']).status === 0 ? null : 'openssl is not installed';
}

const ROOT_EXTENSIONS = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign'];
const SERVER_EXTENSIONS = [
  'basicConstraints=critical,CA:FALSE',
  'keyUsage=critical,digitalSignature',
  'extendedKeyUsage=serverAuth',
  'subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost',
  'authorityKeyIdentifier=keyid',
];

/** Makes a new authority and a server certificate that it signed; good for one day. */
export function makeCertificates(): Certificates {
  const directory = mkdtempSync(join(tmpdir(), 'certificates-'));
  const path = (name: string) => join(directory, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' });
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  const root = ROOT_EXTENSIONS.flatMap((extension) => ['-addext', extension]);
  openssl(
    'req',
    '-x509',
    ...ec,
    '-days',
    '1',
    '-subj',
    '/CN=test root',
    ...root,
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
  );
  openssl('req', ...ec, '-subj', '/CN=localhost', '-keyout', 'server.key', '-out', 'server.csr');
  writeFileSync(path('server.ext'), SERVER_EXTENSIONS.join('\n'));
  const sign = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '1', '-extfile', 'server.ext'];
  openssl('x509', '-req', '-in', 'server.csr', ...sign, '-out', 'server.pem');
  return {
    ca: readFileSync(path('ca.pem'), 'utf8'),
    key: readFileSync(path('server.key'), 'utf8'),
    cert: readFileSync(path('server.pem'), 'utf8'),
    caPath: path('ca.pem'),
    keyPath: path('server.key'),
    certPath: path('server.pem'),
    remove: () => {
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/**
 * Logins: who may pull, how the registry asks for it, and the gate that every request passes.
 * Passwords live in memory and in the request log, in the clear: for tests only.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { userOf } from './login.js';
import { errorReply, type Reply } from './reply.js';
import type { Route } from './routes.js';
import { TokenOffice } from './tokens.js';

/** Name and password sent with each request. */
export interface BasicAuth {
  type: 'basic';
  /** Name → password. */
  users: Record<string, string>;
  /** The realm's name. Default: `test registry`. */
  realm?: string;
  /** Rewrites the WWW-Authenticate headers: odd spacing and case, several challenges in one header. */
  challenge?: ChallengeWriter;
}

/** Tokens from a token server, which answers at `<registry>/token` to GET, and to POST as OAuth2 (`password`, `refresh_token`). */
export interface BearerAuth {
  type: 'bearer';
  /** Name → password. Default: nobody. */
  users?: Record<string, string>;
  /** Which repositories anyone may pull. Default: all of them when there are no users, else none. */
  anonymous?: boolean | string[];
  /** Identity token → the user's name, for the OAuth2 POST. One that is handed out is added. Default: none. */
  identityTokens?: Record<string, string>;
  /** Tokens that are always good, without a token server. Default: none. */
  registryTokens?: string[];
  /** The service's name in challenges. Default: `test-registry`. */
  service?: string;
  /** The token server's address in challenges. Default: the true one. */
  realm?: string;
  /** The token server gets a port of its own, that is: it's another host. Default: false. */
  separateHost?: boolean;
  /** How long a token is good, in milliseconds. Default: 300,000. */
  tokenLifeMs?: number;
  /** How many requests a token is good for. Default: any number. */
  tokenUses?: number;
  /** Which names the answer uses for the token, and whether it tells its life. Defaults: `both`, true. */
  field?: 'token' | 'access_token' | 'both';
  tellLife?: boolean;
  /** Whether the OAuth2 POST is known; older servers answer 404. Default: true. */
  oauth2?: boolean;
  /** Rewrites the WWW-Authenticate headers: odd spacing and case, several challenges in one header. */
  challenge?: ChallengeWriter;
}

/** How a login is asked for. */
export type AuthOptions = BasicAuth | BearerAuth;

/** What a challenge has to say. */
export interface ChallengeParts {
  realm: string;
  /** Bearer only, as are the others. */
  service?: string;
  scope?: string;
  /** Set when a token came that isn't good (any more), or not for this. */
  error?: 'invalid_token' | 'insufficient_scope';
}

/** One header's value, or several headers'. */
export type ChallengeWriter = (parts: ChallengeParts) => string | string[];

/** Decides about requests. */
export interface Gate {
  /** Null: come in. Else the answer that sends the request away. */
  check(headers: IncomingHttpHeaders, route: Route): Reply | null;
}

/** A gate without a lock. */
export const OPEN_GATE: Gate = { check: () => null };

export class BasicGate implements Gate {
  readonly #options: BasicAuth;

  constructor(options: BasicAuth) {
    this.#options = options;
  }

  check(headers: IncomingHttpHeaders): Reply | null {
    if (userOf(headers.authorization, this.#options.users) !== undefined) return null;
    const realm = this.#options.realm ?? 'test registry';
    const write = this.#options.challenge ?? (() => `Basic realm="${realm}"`);
    return unauthorized(write({ realm }));
  }
}

export class BearerGate implements Gate {
  readonly office: TokenOffice;
  readonly #options: BearerAuth;
  readonly #realm: () => string;

  /** `realm` gives the token server's address, known only once it listens. */
  constructor(options: BearerAuth, realm: () => string) {
    this.#options = options;
    this.#realm = () => options.realm ?? realm();
    this.office = new TokenOffice(options);
  }

  check(headers: IncomingHttpHeaders, route: Route): Reply | null {
    const [, token] = /^bearer +(.+)$/i.exec(headers.authorization ?? '') ?? [];
    const verdict = token === undefined ? 'no-token' : this.office.use(token, route.repository);
    if (verdict === 'good') return null;
    const { service = 'test-registry', challenge = bearerChallenge } = this.#options;
    const scope = route.repository === undefined ? {} : { scope: `repository:${route.repository}:pull` };
    const error = verdict === 'no-token' ? {} : { error: verdict };
    return unauthorized(challenge({ realm: this.#realm(), service, ...scope, ...error }));
  }
}

function bearerChallenge(parts: ChallengeParts): string {
  return `Bearer ${Object.entries(parts)
    .map(([name, value]) => `${name}="${String(value)}"`)
    .join(',')}`;
}

function unauthorized(challenges: string | string[]): Reply {
  return errorReply(401, 'UNAUTHORIZED', 'authentication required', undefined, {
    'WWW-Authenticate': challenges,
    'Docker-Distribution-Api-Version': 'registry/2.0',
  });
}

/**
 * The token server: hands out tokens for scopes, and knows which of them are still good.
 * Source: the distribution project's "Token Authentication Specification" and its OAuth2 variant.
 */
import { randomBytes } from 'node:crypto';
import type { BearerAuth } from './auth.js';
import { userOf } from './login.js';
import { errorReply, jsonReply, type Reply } from './reply.js';

/** What the token server is asked. `query` is that of the URL for GET, the form for POST. */
export interface TokenRequest {
  method: string;
  query: URLSearchParams;
  authorization: string | undefined;
}

interface Grant {
  readonly repositories: ReadonlySet<string>;
  readonly expires: number;
  uses: number;
}

const DEFAULT_LIFE_MS = 300_000;

export class TokenOffice {
  readonly #options: BearerAuth;
  readonly #grants = new Map<string, Grant>();
  readonly #identities: Map<string, string>;

  constructor(options: BearerAuth) {
    this.#options = options;
    this.#identities = new Map(Object.entries(options.identityTokens ?? {}));
  }

  /** Whether a token opens a repository, or the front door when there is none. Counts the use. */
  use(token: string, repository: string | undefined): 'good' | 'invalid_token' | 'insufficient_scope' {
    if (this.#options.registryTokens?.includes(token)) return 'good';
    const grant = this.#grants.get(token);
    if (!grant || grant.expires <= Date.now() || grant.uses <= 0) return 'invalid_token';
    grant.uses--;
    return repository === undefined || grant.repositories.has(repository) ? 'good' : 'insufficient_scope';
  }

  /** Makes every token that was handed out bad from now on; identity tokens stay good. */
  expireAll(): void {
    this.#grants.clear();
  }

  answer(request: TokenRequest): Reply {
    if (request.method === 'GET') return this.#answerGet(request);
    if (request.method === 'POST' && this.#options.oauth2 !== false) return this.#answerPost(request.query);
    return errorReply(404, 'NOT_FOUND', 'no such page');
  }

  #answerGet({ query, authorization }: TokenRequest): Reply {
    const user = userOf(authorization, this.#options.users ?? {});
    if (authorization !== undefined && user === undefined) return refused();
    const refresh = query.get('offline_token') === 'true' && user !== undefined ? this.#identityFor(user) : undefined;
    return this.#issue(user, scopesOf(query), refresh);
  }

  #answerPost(form: URLSearchParams): Reply {
    const user = this.#userOfForm(form);
    if (user === undefined) return refused();
    const given = form.get('refresh_token') ?? undefined;
    const refresh = given ?? (form.get('access_type') === 'offline' ? this.#identityFor(user) : undefined);
    return this.#issue(user, scopesOf(form), refresh);
  }

  #userOfForm(form: URLSearchParams): string | undefined {
    if (form.get('grant_type') === 'refresh_token') return this.#identities.get(form.get('refresh_token') ?? '');
    if (form.get('grant_type') !== 'password') return undefined;
    const users = this.#options.users ?? {};
    const name = form.get('username') ?? '';
    return Object.hasOwn(users, name) && users[name] === form.get('password') ? name : undefined;
  }

  #identityFor(user: string): string {
    const identity = `identity-${randomBytes(12).toString('hex')}`;
    this.#identities.set(identity, user);
    return identity;
  }

  /** Hands out a token for what the user may do of what was asked; the rest is left out in silence, as real servers do. */
  #issue(user: string | undefined, wanted: string[], refresh: string | undefined): Reply {
    const { tokenLifeMs = DEFAULT_LIFE_MS, tokenUses = Infinity, field = 'both', tellLife = true } = this.#options;
    const token = randomBytes(24).toString('base64url');
    const repositories = new Set(wanted.filter((name) => user !== undefined || this.#isPublic(name)));
    const now = Date.now();
    this.#grants.set(token, { repositories, expires: now + tokenLifeMs, uses: tokenUses });
    return jsonReply(200, {
      ...(field === 'access_token' ? {} : { token }),
      ...(field === 'token' ? {} : { access_token: token }),
      ...(tellLife ? { expires_in: Math.max(1, Math.ceil(tokenLifeMs / 1000)), issued_at: new Date(now) } : {}),
      ...(refresh === undefined ? {} : { refresh_token: refresh }),
    });
  }

  #isPublic(repository: string): boolean {
    const { anonymous = !this.#options.users } = this.#options;
    return typeof anonymous === 'boolean' ? anonymous : anonymous.includes(repository);
  }
}

/** The repositories of all scopes that ask to pull: several parameters, or several scopes in one, set apart by spaces. */
function scopesOf(query: URLSearchParams): string[] {
  const scopes = query.getAll('scope').flatMap((text) => text.split(' '));
  return scopes.flatMap((scope) => {
    const [, name, actions = ''] = /^repository(?:\([^)]*\))?:(.+):([^:]*)$/.exec(scope) ?? [];
    return name !== undefined && actions.split(',').includes('pull') ? [name] : [];
  });
}

function refused(): Reply {
  return errorReply(401, 'UNAUTHORIZED', 'incorrect username or password');
}

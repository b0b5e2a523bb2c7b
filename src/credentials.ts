/** Credentials that the program itself hands out. */
import type { NativeTask } from './native/binding.js';
import { wrongType } from './errors.js';

/** A credential for one registry: name and password, a bearer token the registry takes, or none. */
export type RegistryAuth = { username: string; password: string } | { token: string } | 'anonymous';

/** Asked for a credential by host (`ghcr.io`, `127.0.0.1:5000`); `null` passes the question on to stored logins. */
export type CredentialCallback = (host: string) => RegistryAuth | null | Promise<RegistryAuth | null>;

/** @internal Checks a credential's shape. */
export function checkAuth(auth: unknown, name: string): RegistryAuth {
  if (auth === 'anonymous') return auth;
  const { username, password, token } = (auth ?? {}) as Record<string, unknown>;
  if (typeof token === 'string') return { token };
  if (typeof username === 'string' && typeof password === 'string') return { username, password };
  // The value may hold a secret, so only its type is told.
  throw wrongType(name, "{ username, password }, { token } or 'anonymous'", auth);
}

/** @internal Answers what the addon asks, until the task has ended. */
export async function answerQuestions(task: NativeTask, ask: CredentialCallback): Promise<void> {
  for (let question; (question = await task.nextQuestion()) !== '';) {
    const { id, host } = JSON.parse(question) as { id: number; host: string };
    try {
      const auth = await ask(host);
      task.answer(id, JSON.stringify(auth === null ? null : checkAuth(auth, 'auth(host)')));
    } catch (error) {
      task.answer(id, 'null', error instanceof Error ? error.message : 'the function threw');
    }
  }
}

/** Errors for people: one line, with what to do next. */
import { ImageError, type ImageErrorCode } from '../errors.js';
import { json as toJson, printable } from './text.js';

/** Wrong usage of the command line. */
export class Usage extends Error {
  readonly code = 'ERR_USAGE';
}

/** The command did its work, and what it found is bad. Its answer has been printed. */
export class Found extends Error {
  readonly code = 'ERR_FOUND';
}

/** Ctrl-C. */
export class Interrupted extends Error {
  readonly code = 'ERR_INTERRUPTED';
  constructor() {
    super('interrupted; what was downloaded is kept and the next pull goes on from there');
  }
}

const NEXT: Partial<Record<ImageErrorCode, string>> = {
  ERR_NOT_FOUND: 'check the name and the tag',
  ERR_NETWORK: 'check the host name and the connection; plain HTTP needs --insecure HOST, a private CA --ca-cert FILE',
  ERR_NOT_CACHED: 'pull it first, without --policy never',
  ERR_NO_SPACE: 'make room, or choose another --cache-dir',
  ERR_PLATFORM_NOT_FOUND: 'choose one with --platform',
  ERR_LOCK_TIMEOUT: 'another process is at work on it; wait, or stop that process',
  ERR_DIGEST_MISMATCH: 'the registry or a proxy sends damaged bytes; try again',
  ERR_INTERNAL: 'this is a fault of microsandbox-image; please report it',
};

/** Prints an error and answers with the exit code. */
export function report(error: unknown, json: boolean, exitCode: number): number {
  const { code, message } = facts(error);
  if (json) {
    const more =
      error instanceof ImageError ? { reference: error.reference, layer: error.layer, details: error.details } : {};
    process.stdout.write(`${toJson({ error: { code, message, ...more } })}\n`);
  } else {
    const next = NEXT[code as ImageErrorCode];
    process.stderr.write(`error: ${oneLine(message)}${next === undefined ? '' : ` (${next})`}\n`);
  }
  return exitCode;
}

function facts(error: unknown): { code: string; message: string } {
  if (!(error instanceof Error)) return { code: 'ERR_INTERNAL', message: String(error) };
  const code = 'code' in error ? String(error.code) : 'ERR_INTERNAL';
  return { code, message: withCause(error) };
}

/** The errno below an I/O error is the fact that people look for. */
function withCause(error: Error): string {
  const cause = error.cause instanceof Error ? error.cause.message : undefined;
  return cause === undefined || error.message.includes(cause) ? error.message : `${error.message}: ${cause}`;
}

function oneLine(text: string): string {
  return printable(text.replace(/\s*\n\s*/g, ' '));
}

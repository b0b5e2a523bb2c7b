/** Finds and loads the addon; when it can't, says the true cause and what to do. */
import { addons } from './addons.js';

/** What a target needs to be named by: Node's platform and architecture, and the C library on Linux. */
function target(): string {
  const { platform, arch } = process;
  return platform === 'linux' ? `linux-${arch}-${isMusl() ? 'musl' : 'gnu'}` : `${platform}-${arch}`;
}

/** True where the process runs on musl. glibc writes its version into the process report; musl has none. */
function isMusl(): boolean {
  // Bun and Deno answer this too; where nobody does, glibc is by far the likelier.
  const report = process.report as unknown as { getReport?: () => { header?: { glibcVersionRuntime?: string } } };
  try {
    const header = report.getReport?.().header;
    return header !== undefined && header.glibcVersionRuntime === undefined;
  } catch {
    return false;
  }
}

/** Loads the addon. Throws an `Error` that names the true cause and what to do. */
export function loadAddon(): unknown {
  const name = target();
  const load = addons[name];
  if (load === undefined) {
    throw new Error(
      `microsandbox-image does not support ${name}. Supported: ${Object.keys(addons).join(', ')}. On Windows, use WSL 2.`,
    );
  }
  const failures: unknown[] = [];
  const addon = load(failures);
  if (addon !== undefined) return addon;
  throw new Error(explain(name, failures), {
    cause: failures.find((failure) => !isMissing(failure)) ?? failures.at(-1),
  });
}

function isMissing(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return code === 'MODULE_NOT_FOUND' || (typeof message === 'string' && /cannot find (module|package)/i.test(message));
}

function explain(name: string, failures: unknown[]): string {
  const found = failures.find((failure) => !isMissing(failure));
  if (found === undefined) {
    return (
      `The native part of microsandbox-image for ${name} is not installed (package microsandbox-image-${name}). ` +
      'Reinstall without --omit=optional or --no-optional; in a checkout run `npm run build`.'
    );
  }
  const reason = found instanceof Error ? found.message : 'an unknown reason';
  if (reason.includes('GLIBC_')) {
    return `The native part of microsandbox-image needs glibc 2.28 or newer; this system is older: ${reason}`;
  }
  if (/invalid ELF header|wrong ELF class|incompatible architecture/i.test(reason)) {
    return `The native part of microsandbox-image was built for another machine than ${name}; delete node_modules and install here: ${reason}`;
  }
  return `The native part of microsandbox-image for ${name} can't be loaded: ${reason}`;
}

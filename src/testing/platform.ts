/** Platforms as images and indexes write them. Pure; any words are taken, also `unknown/unknown`. */

/** The fields of a platform; `os.version` and `os.features` as the specification spells them. */
export interface PlatformFields {
  os: string;
  architecture: string;
  variant?: string;
  'os.version'?: string;
  'os.features'?: string[];
}

/** `'os/architecture'`, `'os/architecture/variant'`, or the fields. */
export type PlatformSpec = string | PlatformFields;

/** @internal */
export function parsePlatformSpec(spec: PlatformSpec | undefined): PlatformFields {
  if (spec === undefined) return { os: 'linux', architecture: hostArchitecture() };
  if (typeof spec !== 'string') return spec;
  const [os, architecture, variant, ...rest] = spec.split('/');
  if (!os || !architecture || rest.length > 0) throw new TypeError(`not a platform: ${spec} (os/architecture/variant)`);
  return { os, architecture, ...(variant ? { variant } : {}) };
}

/** This machine's processor, as images call it. */
function hostArchitecture(): string {
  const names: Partial<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };
  return names[process.arch] ?? process.arch;
}

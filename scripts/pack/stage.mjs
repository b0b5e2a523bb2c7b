// Lays out a package as it is published: the folder of one target's addon, and the main package without any.
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';

const SHARED = ['version', 'license', 'repository', 'homepage', 'bugs', 'engines'];
const MAIN = [
  'name',
  'description',
  'keywords',
  'type',
  'main',
  'module',
  'types',
  'bin',
  'exports',
  'sideEffects',
  'dependencies',
];

const pick = (manifest, names) =>
  Object.fromEntries(names.filter((name) => name in manifest).map((name) => [name, manifest[name]]));
const readManifest = (directory) => JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));

function writeManifest(directory, manifest) {
  writeFileSync(join(directory, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The package of one target: the addon, nothing to run, nothing to install. */
export function stageTarget(root, target, directory) {
  mkdirSync(directory, { recursive: true });
  const { name } = readManifest(root);
  copyFileSync(target.path, join(directory, target.file));
  copyFileSync(join(root, 'LICENSE'), join(directory, 'LICENSE'));
  writeFileSync(
    join(directory, 'README.md'),
    `# ${target.packageName}\n\nThe native part of \`${name}\` for ${target.name}. Install \`${name}\`, not this.\n`,
  );
  writeManifest(directory, {
    name: target.packageName,
    description: `The native part of ${name} for ${target.name}`,
    ...pick(readManifest(root), SHARED),
    main: target.file,
    files: [target.file],
    os: [target.os],
    cpu: [target.cpu],
    ...(target.libc === undefined ? {} : { libc: [target.libc] }),
  });
}

/**
 * The main package: TypeScript's output and declarations, its few dependencies inside, so that it installs without a
 * registry; one optional dependency for each target, at exactly this version, because the two halves speak a private
 * protocol.
 */
export function stageMain(root, targets, directory) {
  mkdirSync(directory, { recursive: true });
  const manifest = readManifest(root);
  const files = [...manifest.files.filter((name) => !name.endsWith('.node')), 'CHANGELOG.md'];
  // The declarations of single modules are what index.d.ts and testing.d.ts were bundled from; nobody reads them.
  const filter = (source) => !/\bdist\b.*\.d\.ts$/.test(relative(root, source));
  for (const file of [...files, 'README.md', 'LICENSE']) {
    cpSync(join(root, file), join(directory, file), { recursive: true, filter });
  }
  for (const [name, path] of dependencyClosure(root, Object.keys(manifest.dependencies ?? {}))) {
    cpSync(path, join(directory, 'node_modules', name), { recursive: true });
  }
  writeManifest(directory, {
    ...pick(manifest, MAIN),
    ...pick(manifest, SHARED),
    files,
    bundleDependencies: Object.keys(manifest.dependencies ?? {}),
    optionalDependencies: Object.fromEntries(targets.map((target) => [target.packageName, manifest.version])),
  });
}

/** Dependencies and theirs, by name, with where each lies. Refuses two versions of one name: a flat copy can't hold both. */
function dependencyClosure(root, names) {
  const found = new Map();
  const visit = (from, name) => {
    const path = dirname(findManifest(from, name));
    if (found.has(name) && found.get(name) !== path) throw new Error(`two versions of ${name} can't be packed`);
    if (found.has(name)) return;
    found.set(name, path);
    for (const below of Object.keys(readManifest(path).dependencies ?? {})) visit(path, below);
  };
  for (const name of names) visit(root, name);
  return found;
}

function findManifest(from, name) {
  // By path, not by resolving the name: a package's exports may hide its manifest.
  const paths = createRequire(join(from, 'package.json')).resolve.paths(name) ?? [];
  for (const path of paths) {
    try {
      readManifest(join(path, name));
      return join(path, name, 'package.json');
    } catch {
      continue;
    }
  }
  throw new Error(`${name} is not installed; run npm ci`);
}

// Plays what Electron adds to Node so that a program runs from an archive: modules are found and read inside `app.asar`,
// addons are opened from `app.asar.unpacked` beside it. Started as `node asar-host.cjs ASAR-MODULE ARCHIVE PROGRAM`.
const Module = require('node:module');
const { dirname, join, relative, sep } = require('node:path');

const [asarModule, archive, program] = process.argv.slice(2);
const asar = require(asarModule);
const inside = (path) => path.startsWith(archive + sep);

/** A file of the archive as text, or null. */
function read(path) {
  try {
    return asar.extractFile(archive, relative(archive, path)).toString();
  } catch {
    return null;
  }
}

const isFile = (path) => {
  try {
    return 'size' in asar.statFile(archive, relative(archive, path));
  } catch {
    return false;
  }
};

/** The file of a package that CommonJS code gets, by its exports or its main. */
function entryOf(directory, subpath) {
  const manifest = JSON.parse(read(join(directory, 'package.json')) ?? 'null');
  if (manifest === null) return null;
  const exported = manifest.exports?.[subpath]?.require?.default ?? manifest.exports?.[subpath];
  const file = exported ?? (subpath === '.' ? (manifest.main ?? 'index.js') : subpath);
  return join(directory, file);
}

function find(request, from) {
  if (request.startsWith('.')) return [join(from, request), `${join(from, request)}.js`].find(isFile);
  const [name, ...rest] = request.split('/');
  for (let folder = from; inside(join(folder, 'x')); folder = dirname(folder)) {
    const entry = entryOf(join(folder, 'node_modules', name), ['.', ...rest].join('/'));
    if (entry !== null) return entry;
  }
  return undefined;
}

const resolveOutside = Module._resolveFilename;
Module._resolveFilename = function (request, parent, ...rest) {
  if (Module.isBuiltin(request) || !inside(parent?.filename ?? '')) {
    return inside(request) ? request : resolveOutside.call(this, request, parent, ...rest);
  }
  const found = find(request, dirname(parent.filename));
  if (found !== undefined) return found;
  throw Object.assign(new Error(`Cannot find module '${request}'`), { code: 'MODULE_NOT_FOUND' });
};

const loadOutside = Module._extensions['.js'];
Module._extensions['.js'] = (module, path) =>
  inside(path) ? module._compile(read(path), path) : loadOutside(module, path);
Module._extensions['.json'] = (module, path) => {
  module.exports = JSON.parse(read(path));
};
Module._extensions['.node'] = (module, path) => {
  if (read(path) === null) throw new Error(`${path} is not in the archive`);
  process.dlopen(module, path.replace(archive, `${archive}.unpacked`));
};

require(join(archive, program));

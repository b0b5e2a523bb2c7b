/** The program that tests of the installed package start in many ways: alone, in workers, bundled, from an archive. */

/** Serves an image, pulls it, prints the answer; ends by itself. */
const PULL = `
  const registry = await startRegistry({ images: { 'app:1': { layers: [[{ path: 'etc/motd', content: 'hello' }]] } } });
  const cache = require('node:fs').mkdtempSync(require('node:path').join(__dirname, 'cache-'));
  const { layers } = await pull(registry.reference('app:1'), { cache });
  await registry.close();
  console.log(require('node:fs').readFileSync(require('node:path').join(layers[0], 'etc/motd'), 'utf8'));
`;
/** The program as an ES module. */
export const ESM = `
  import { createRequire } from 'node:module';
  import { pull } from 'microsandbox-image';
  import { startRegistry } from 'microsandbox-image/testing';
  const require = createRequire(import.meta.url);
  const __dirname = import.meta.dirname;
  ${PULL}`;
/** The program in CommonJS. */
export const COMMONJS = `
  const { pull } = require('microsandbox-image');
  const { startRegistry } = require('microsandbox-image/testing');
  (async () => { ${PULL} })();`;

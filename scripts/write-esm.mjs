// Writes the ES-module doors beside the CommonJS build: one copy of the code, so that classes are the same from both.
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';

const require = createRequire(import.meta.url);
for (const entry of ['index', 'testing/index']) {
  const names = Object.keys(require(`../dist/${entry}.js`)).filter((name) => name !== '__esModule');
  const lines = [
    `import module from './${entry.split('/').at(-1)}.js';`,
    `export const { ${names.sort().join(', ')} } = module;`,
    '',
  ];
  writeFileSync(new URL(`../dist/${entry}.mjs`, import.meta.url), lines.join('\n'));
}
for (const name of ['index', 'testing']) {
  writeFileSync(new URL(`../${name}.d.mts`, import.meta.url), `export * from './${name}.js';\n`);
}

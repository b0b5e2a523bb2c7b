// Pulls one image into a cache that others pull into at the same time, and prints a file of it.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pull } from 'microsandbox-image';

const [host, cache] = process.argv.slice(2);
const { layers } = await pull(`${host}/app:1`, { cache, credentials: 'none' });
console.log(readFileSync(join(layers[0], 'etc/motd'), 'utf8'));

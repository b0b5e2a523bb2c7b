// A cache of images for CI: what the jobs of a pipeline need is pulled once and kept with the pipeline's own cache.
//
//   node ci-cache.mjs key  IMAGE…             prints a key that changes when one of the images does
//   node ci-cache.mjs pull DIRECTORY IMAGE…   fills the directory, then shows that it serves without a network
import { createHash } from 'node:crypto';
import { Registry } from 'microsandbox-image';

const [command, ...args] = process.argv.slice(2);

/** Asks the registries what the images are now; fetches no layer. */
async function key(images) {
  const registry = new Registry();
  const resolved = await Promise.all(images.map((image) => registry.resolve(image)));
  const hash = createHash('sha256');
  for (const { manifestDigest } of resolved) hash.update(`${manifestDigest}\n`);
  console.log(`images-${hash.digest('hex').slice(0, 16)}`);
}

async function pullAll(directory, images) {
  const registry = new Registry({ cache: directory, retries: 10 });
  const results = await Promise.all(images.map((image) => registry.pull(image, { policy: 'always' })));
  for (const { reference, manifestDigest, cached } of results) {
    console.log(`${cached ? 'cached' : 'pulled'} ${reference} ${manifestDigest}`);
  }
  for (const image of images) await registry.pull(image, { policy: 'never' });
}

if (command === 'key') await key(args);
else if (command === 'pull') await pullAll(args[0], args.slice(1));
else throw new Error('usage: ci-cache.mjs key IMAGE… | pull DIRECTORY IMAGE…');

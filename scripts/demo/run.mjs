// The demo itself; everything it imports has been built by now.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Registry } from 'microsandbox-image';
import { startRegistry } from 'microsandbox-image/testing';
import { imageOfThisCheckout } from './image.mjs';
import { cachedTime, showResult, showTree } from './report.mjs';
import progress from '../../dist/cli/progress.js';

export async function runDemo(given) {
  const directory = mkdtempSync(join(tmpdir(), 'microsandbox-image-demo-'));
  const registry = new Registry({ cache: join(directory, 'cache') });
  const server = await startRegistry();
  try {
    const references = given.length > 0 ? given : [serveThisCheckout(server)];
    for (const reference of references) await demonstrate(registry, reference);
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  } finally {
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

function serveThisCheckout(server) {
  say('Packing files of this checkout into an image of two layers');
  const { image, facts } = imageOfThisCheckout();
  console.log(facts);
  say(`Serving it from a registry in this process, at ${server.url}`);
  return server.push('demo/checkout:1', image).reference;
}

async function demonstrate(registry, reference) {
  say(`Pulling ${reference} into a fresh cache`);
  const began = performance.now();
  const pull = registry.pull(reference);
  const watch = progress.watcher(false);
  try {
    for await (const event of pull) watch.tell(event);
  } finally {
    watch.end();
  }
  const result = await pull;
  const took = performance.now() - began;

  say('What came');
  showResult(registry, result, took);
  say('The top of the tree, as the layers stack up (owners and modes as the image says)');
  showTree(registry, result);
  say('Pulling it again: no network, no lock, nothing written');
  await cachedTime(registry, reference);
}

function say(text) {
  console.log(`\n— ${text}`);
}

// npm run demo [-- REFERENCE…]: pulls an image with progress, shows what came, and pulls it again from the cache.
// Without a reference it needs no internet: it packs this checkout's own files into an image, serves them from the
// registry that is made for tests, and pulls from there.
import { buildWhatIsStale } from './demo/build.mjs';

buildWhatIsStale();
// Only now is there something to import.
const { runDemo } = await import('./demo/run.mjs');
await runDemo(process.argv.slice(2));

// A service that prepares images for its sandboxes: one client, one cache, many requests.
//
//   node server.mjs [port] [cache directory]
//   curl -N 'http://127.0.0.1:8080/pull?image=alpine:3.20'
//
// Each answer is a line of JSON for each event, then the result. Whoever hangs up stops the pull.
import { createServer } from 'node:http';
import { ImageError, Registry } from 'microsandbox-image';

const [port = '8080', cache] = process.argv.slice(2);
const registry = new Registry({ cache, concurrency: 4 });

/** HTTP status for an error: whose fault it is. */
function statusOf(error) {
  if (!(error instanceof ImageError)) return 500;
  if (['ERR_INVALID_REFERENCE', 'ERR_INVALID_OPTION'].includes(error.code)) return 400;
  if (['ERR_NOT_FOUND', 'ERR_PLATFORM_NOT_FOUND'].includes(error.code)) return 404;
  return ['ERR_NETWORK', 'ERR_TIMEOUT', 'ERR_REGISTRY', 'ERR_UNAUTHORIZED'].includes(error.code) ? 502 : 500;
}

async function answer(request, response) {
  const image = new URL(request.url, 'http://localhost').searchParams.get('image') ?? '';
  const write = (value) => response.write(`${JSON.stringify(value)}\n`);

  const hit = registry.pullCached(image); // microseconds, and no lock: every request may ask
  if (hit !== null) return void response.end(`${JSON.stringify(hit)}\n`);

  const left = new AbortController();
  response.on('close', () => left.abort());
  const pull = registry.pull(image, { signal: left.signal });
  for await (const event of pull) write(event);
  write(await pull);
  response.end();
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (!response.headersSent) response.writeHead(statusOf(error));
    response.end(`${JSON.stringify({ error: { code: error.code, message: error.message } })}\n`);
  });
});
server.listen(Number(port), '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
process.once('SIGTERM', () => server.close());

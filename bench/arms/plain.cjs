// One pull over plain HTTP, for programs that watch this process: node plain.cjs REFERENCE CACHE. Prints processor seconds.
const { Registry } = require('microsandbox-image');

const [reference, cache] = process.argv.slice(2);
const before = process.cpuUsage();
new Registry({ cache, credentials: 'none', proxy: null }).pull(reference).then(
  () => {
    const { user, system } = process.cpuUsage(before);
    console.log((user + system) / 1e6);
  },
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);

// One pull by this package in a process of its own: node ours.cjs REFERENCE CACHE [CA-FILE [OPTIONS]]. Prints what it cost as JSON.
const { readFileSync } = require('node:fs');

// CA-FILE may be empty; OPTIONS are those of a Registry, as JSON.
const [reference, cache, caPath = '', options = '{}'] = process.argv.slice(2);
const beforeLoad = process.hrtime.bigint();
const { Registry } = require('microsandbox-image');

async function main() {
  const trust = caPath === '' ? {} : { caCertificates: readFileSync(caPath) };
  const registry = new Registry({ cache, ...trust, credentials: 'none', proxy: null, ...JSON.parse(options) });
  const cpuBefore = process.cpuUsage();
  const started = process.hrtime.bigint();
  await registry.pull(reference);
  const wall = Number(process.hrtime.bigint() - started) / 1e9;
  const { user, system } = process.cpuUsage(cpuBefore);
  const answer = {
    wall,
    cpu: (user + system) / 1e6,
    // Not what getrusage says: that remembers the process this one was forked from.
    memory: Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024,
    // From the start of the process to the call, and the part of it that loading the package took.
    startup: process.uptime() - wall,
    load: Number(started - beforeLoad) / 1e9,
  };
  console.log(JSON.stringify(answer));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});

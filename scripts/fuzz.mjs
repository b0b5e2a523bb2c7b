// npm run fuzz [-- --seconds N] [-- --sanitizer address] [TARGET…]: builds the targets of fuzz/ and runs each for a while,
// from the inputs in fuzz/corpus on. Fails with the first input that breaks one, which is kept in fuzz/artifacts.
//
// It needs no cargo-fuzz: what that passes to the compiler is in fuzz-rustc.sh, and the stable toolchain takes it. Only the
// address sanitizer needs a nightly one.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const fuzz = join(root, 'fuzz');
const ALL = readdirSync(join(fuzz, 'fuzz_targets')).map((file) => file.replace(/\.rs$/, ''));
const TRIPLE = { x64: 'x86_64-unknown-linux-gnu', arm64: 'aarch64-unknown-linux-gnu' }[process.arch];

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '12' }, sanitizer: { type: 'string', default: 'none' } },
  allowPositionals: true,
});
const targets = positionals.length > 0 ? positionals : ALL;
const unknown = targets.filter((target) => !ALL.includes(target));
if (unknown.length > 0) throw new Error(`no target ${unknown.join(', ')}; there are ${ALL.join(', ')}`);

function run(program, args, options) {
  const { status, signal, error } = spawnSync(program, args, { stdio: 'inherit', ...options });
  if (error !== undefined) throw error;
  return status === 0 && signal === null;
}

/** Compiles the targets and says where they are. */
function build() {
  const target = join(root, 'target');
  if (values.sanitizer === 'none') {
    // The dependencies are those that the tests have compiled; the counters go into our own crates alone.
    const env = { ...process.env, CARGO_TARGET_DIR: target, RUSTC_WRAPPER: join(root, 'scripts', 'fuzz-rustc.sh') };
    if (!run('cargo', ['build', '--quiet', '--bins'], { cwd: fuzz, env })) process.exit(1);
    return join(target, 'debug');
  }
  if (values.sanitizer !== 'address') throw new Error('--sanitizer is none or address');
  if (spawnSync('cargo', ['+nightly', '--version']).status !== 0) {
    console.error('The address sanitizer needs a nightly Rust: rustup toolchain install nightly');
    process.exit(1);
  }
  const env = {
    ...process.env,
    CARGO_TARGET_DIR: join(target, 'fuzz-address'),
    RUSTC_WRAPPER: join(root, 'scripts', 'fuzz-rustc.sh'),
    RUSTFLAGS: '-Zsanitizer=address',
  };
  // With a target named, the flags are not for build scripts.
  const args = ['+nightly', 'build', '--quiet', '--bins', '--target', TRIPLE];
  if (!run('cargo', args, { cwd: fuzz, env })) process.exit(1);
  return join(target, 'fuzz-address', TRIPLE, 'debug');
}

/** Runs one target; inputs it finds are kept beside what was built, so that the next run goes on from them. */
function fuzzOne(programs, target) {
  const found = join(root, 'target', 'fuzz-corpus', target);
  const artifacts = join(fuzz, 'artifacts', target);
  for (const directory of [found, artifacts]) mkdirSync(directory, { recursive: true });
  const started = Date.now();
  const address = values.sanitizer === 'address';
  const args = [
    ...[found, join(fuzz, 'corpus', target)],
    ...[`-max_total_time=${values.seconds}`, `-rss_limit_mb=${address ? 2048 : 512}`, '-malloc_limit_mb=256'],
    ...['-timeout=10', '-max_len=8192', `-artifact_prefix=${artifacts}/`, '-verbosity=0', '-print_final_stats=1'],
  ];
  // More than all of its time means that it hangs where its own time-out does not see it.
  const timeout = (Number(values.seconds) + 120) * 1000;
  const { status, stderr, pid } = spawnSync(join(programs, target), args, { timeout, killSignal: 'SIGKILL' });
  for (const scratch of ['/dev/shm', tmpdir()]) {
    for (const name of ['fuzz', 'fuzz-index'])
      rmSync(join(scratch, `microsandbox-image-${name}-${pid}`), { recursive: true, force: true });
  }
  const log = stderr.toString();
  const runs = /number_of_executed_units:\s*(\d+)/.exec(log)?.[1] ?? '?';
  const peak = /peak_rss_mb:\s*(\d+)/.exec(log)?.[1] ?? '?';
  const passed = status === 0;
  if (!passed) console.error(log.slice(-8000));
  const took = ((Date.now() - started) / 1000).toFixed(0);
  console.log(`${target}: ${passed ? 'passed' : 'FAILED'}, ${runs} inputs in ${took} s, at most ${peak} MiB`);
  if (passed) rmSync(artifacts, { recursive: true });
  return passed;
}

const programs = build();
const results = targets.map((target) => fuzzOne(resolve(programs), target));
process.exitCode = results.every(Boolean) ? 0 : 1;

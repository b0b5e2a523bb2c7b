// node bench/syscalls.mjs [--max N]: system calls per regular file, counted by strace. No neighbour and no cache changes
// this number, so it is what CI watches: with --max it fails where the number is higher.
//
// Two images that differ only in how many files they have are pulled; the difference between the counts, divided by the
// difference between the files, is free of what starting Node and asking the registry cost. The share of the directories (one for
// fifty files) and of reading the socket is in it.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startRegistry } from 'microsandbox-image/testing';

const { values } = parseArgs({ options: { max: { type: 'string' } } });
const FEW = 5_000;
const MANY = 15_000;

const images = Object.fromEntries([FEW, MANY].map((files) => [`files:${files}`, { layers: [entries(files)] }]));
const server = await startRegistry({ images });
const work = mkdtempSync(join(tmpdir(), 'bench-calls-'));
try {
  const few = await countCalls(server.reference(`files:${FEW}`), 'few');
  const many = await countCalls(server.reference(`files:${MANY}`), 'many');
  const perFile = (name) => ((many.get(name) ?? 0) - (few.get(name) ?? 0)) / (MANY - FEW);
  const rows = [...many.keys()].map((name) => [name, perFile(name)]).sort((a, b) => b[1] - a[1]);
  for (const [name, calls] of rows.filter(([, calls]) => calls >= 0.005)) {
    console.log(`${name.padEnd(20)} ${calls.toFixed(3).padStart(7)}`);
  }
  // Waiting for another thread depends on who was faster: it is shown, but it isn't work for a file.
  const waiting = ['futex', 'sched_yield', 'epoll_wait', 'epoll_pwait', 'restart_syscall', 'poll'];
  const total = rows.filter(([name]) => !waiting.includes(name)).reduce((sum, [, calls]) => sum + calls, 0);
  console.log(`system calls per regular file, without waiting: ${total.toFixed(2)}`);
  if (values.max !== undefined && total > Number(values.max)) {
    console.log(`FAILED: more than ${values.max}`);
    process.exitCode = 1;
  }
} finally {
  await server.close();
  rmSync(work, { recursive: true });
}

function entries(files) {
  return Array.from({ length: files }, (_, at) => {
    const directory = { path: `tree/${at / 50}`, type: 'directory' };
    const file = {
      path: `tree/${Math.floor(at / 50)}/file-${at}`,
      content: `${at}\n`.repeat(200),
      mtime: 1_700_000_000 + at,
    };
    return at % 50 === 0 ? [directory, file] : [file];
  }).flat();
}

/** System call → how often a pull in a process of its own makes it, by all threads. */
async function countCalls(reference, name) {
  const summary = join(work, `${name}.txt`);
  const program = join(import.meta.dirname, 'arms', 'plain.cjs');
  const traced = [process.execPath, program, reference, join(work, name)];
  const child = spawn('strace', ['-f', '-c', '-o', summary, ...traced], { stdio: ['ignore', 'ignore', 'inherit'] });
  const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
  if (code !== 0) throw new Error(`strace ended with ${code}`);
  const counts = new Map();
  for (const line of readFileSync(summary, 'utf8').split('\n')) {
    // % time, seconds, microseconds a call, calls, errors (may be missing), name
    const cells = line.trim().split(/\s+/);
    const call = cells.at(-1);
    if (/^\d/.test(cells[0] ?? '') && call !== 'total' && cells.length >= 5) counts.set(call, Number(cells[3]));
  }
  return counts;
}

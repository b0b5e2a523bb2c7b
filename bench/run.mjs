// npm run bench [-- --quick --rounds N --arms a,b --images a,b --out DIR --scratch DIR]: pulls side by side with other
// programs. The measurements are TypeScript, read by tsx; this is the door that plain Node can open.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const main = join(import.meta.dirname, 'main.ts');
const { status } = spawnSync(process.execPath, ['--import', 'tsx', main, ...process.argv.slice(2)], {
  stdio: 'inherit',
});
process.exitCode = status ?? 1;

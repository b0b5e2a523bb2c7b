/** A program in a pseudo-terminal whose size changes and at which keys are pressed, by Python's `pty`. */
import { must } from './programs.js';

export interface Keystroke {
  /** Milliseconds after the first time that `once` is on the screen. */
  after: number;
  /** What is typed. */
  keys?: string;
  /** The new width. */
  columns?: number;
}

export interface Session {
  /** The program's exit code; negative for a signal. */
  code: number;
  /** What was written before the first keystroke or change of size, and after it. */
  before: string;
  after: string;
}

const SCRIPT = `
import fcntl, json, os, select, signal, struct, sys, termios, time, pty
order = json.loads(sys.argv[1])
def resize(fd, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
ready, go = os.pipe()
pid, master = pty.fork()
if pid == 0:
    os.read(ready, 1)
    os.execvpe(order['command'][0], order['command'], {**os.environ, **order['env']})
resize(master, order['columns'])
os.write(go, b'x')
deadline, started, done = time.time() + 60, None, False
output = [b'', b'']
while time.time() < deadline:
    if select.select([master], [], [], 0.02)[0]:
        try:
            data = os.read(master, 65536)
        except OSError:
            data = b''
        if not data:
            break
        output[1 if done else 0] += data
    if started is None and order['once'].encode() in output[0]:
        started = time.time()
    if started is not None and not done and time.time() - started >= order['after'] / 1000:
        done = True
        if order.get('columns_then'):
            resize(master, order['columns_then'])
        if order.get('keys'):
            os.write(master, order['keys'].encode())
else:
    os.kill(pid, signal.SIGKILL)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps({'code': status, 'before': output[0].decode(errors='replace'), 'after': output[1].decode(errors='replace')}))
`;

/** Runs a command; `then` happens once a text is on the screen. */
export async function inPty(
  command: string[],
  columns: number,
  once: string,
  then: Keystroke,
  env: Record<string, string> = {},
): Promise<Session> {
  const order = { command, columns, once, env, after: then.after, keys: then.keys, columns_then: then.columns };
  return JSON.parse(await must('python3', ['-c', SCRIPT, JSON.stringify(order)])) as Session;
}

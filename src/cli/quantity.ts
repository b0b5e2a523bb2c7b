/** Lengths and times as people write and read them. */
import { Usage } from './failure.js';

const BYTES: Record<string, number> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};
const MILLISECONDS: Record<string, number> = { s: 1e3, m: 60e3, h: 3600e3, d: 86_400e3, w: 604_800e3 };

/** `10GiB`, `500MB`, `1.5G` or plain bytes. */
export function parseBytes(option: string, text: string): number {
  const bytes = parse(text, BYTES);
  if (bytes === undefined) throw new Usage(`${option} takes bytes or a size such as 500MB or 10GiB, not ${text}`);
  return bytes;
}

/** `30d`, `12h`, `90m`, `45s`, `2w`. */
export function parseAge(option: string, text: string): number {
  const milliseconds = parse(text, MILLISECONDS);
  if (milliseconds === undefined) throw new Usage(`${option} takes a time such as 30d, 12h or 90m, not ${text}`);
  return milliseconds;
}

/** A whole number of at least 0. */
export function parseCount(option: string, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new Usage(`${option} takes a whole number, not ${text}`);
  return Number(text);
}

function parse(text: string, units: Record<string, number>): number | undefined {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = unit === undefined ? undefined : units[unit.toLowerCase()];
  const value = Number(number) * (factor ?? NaN);
  return Number.isSafeInteger(Math.round(value)) ? Math.round(value) : undefined;
}

/** How long ago, in the unit that fits. */
export function ago(time: number, now: number): string {
  const seconds = Math.max(0, Math.round((now - time) / 1000));
  const units: [number, string][] = [
    [86_400, 'day'],
    [3600, 'hour'],
    [60, 'minute'],
  ];
  for (const [length, name] of units) {
    const count = Math.floor(seconds / length);
    if (count > 0) return `${count} ${name}${count === 1 ? '' : 's'} ago`;
  }
  return 'just now';
}

/** Columns, aligned, without spaces at the ends of lines. */
export function table(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '));
  return lines.map((line) => `${line.trimEnd()}\n`).join('');
}

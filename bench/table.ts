/** The results as Markdown. */
import type { Report, Series } from './bench.js';
import { spread } from './statistics.js';

export function writeTable(report: Report): string {
  const images = [...new Set(report.series.map(({ image }) => image))];
  const parts = images.map((image) => {
    const series = report.series.filter((one) => one.image === image);
    const size = `${megabytes(image.compressed)} MB compressed, ${megabytes(image.uncompressed)} MB of tar, ${image.entries} entries`;
    return [`### ${image.title} (${size})`, '', ...rows(series), ''].join('\n');
  });
  const versions = Object.entries(report.versions).map(([name, version]) => `${name}: ${version}`);
  const footer = [
    `${report.machine}. ${report.rounds} rounds in turns, each pull on a fresh ext4 (journal, 256-byte inodes) in memory,`,
    'from `docker-registry` over TLS on loopback, without a final sync. Ours is timed from the call to the answer;',
    `Node's start and the load of the package (${startup(report)}) come on top. Times are medians with the fastest and slowest round.`,
    `Versions: ${versions.join('; ')}.`,
  ];
  return [...parts, ...footer, ''].join('\n');
}

function rows(series: Series[]): string[] {
  const ours = series.find(({ arm }) => arm.name === 'ours');
  const median = (one: Series | undefined, field: 'wall' | 'cpu' | 'memory'): number =>
    spread((one?.costs ?? []).map((cost) => cost[field])).median;
  return [
    '| | seconds | min – max | times ours | processor seconds | times ours | peak memory |',
    '|---|--:|--:|--:|--:|--:|--:|',
    ...series.map((one) => {
      const wall = spread(one.costs.map((cost) => cost.wall));
      const cells = [
        one.arm.title,
        wall.median.toFixed(2),
        `${wall.min.toFixed(2)} – ${wall.max.toFixed(2)}`,
        ratio(wall.median, median(ours, 'wall')),
        number(median(one, 'cpu')),
        ratio(median(one, 'cpu'), median(ours, 'cpu')),
        `${(median(one, 'memory') / 2 ** 20).toFixed(0)} MiB`,
      ];
      return `| ${cells.join(' | ')} |`;
    }),
  ];
}

function startup({ series }: Report): string {
  const notes = series.flatMap(({ costs }) => costs.flatMap(({ notes: note }) => (note === undefined ? [] : [note])));
  const [whole, load] = ['startup', 'load'].map((name) => spread(notes.map((note) => note[name] ?? NaN)).median * 1000);
  return notes.length === 0 ? 'not run' : `${(whole ?? NaN).toFixed(0)} ms, ${(load ?? NaN).toFixed(0)} ms of it ours`;
}

function number(value: number): string {
  return Number.isNaN(value) ? '?' : value.toFixed(2);
}

function ratio(value: number, ours: number): string {
  return Number.isNaN(value / ours) ? '?' : (value / ours).toFixed(2);
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}

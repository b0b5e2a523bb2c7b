/** The results as an SVG: a bar for each arm, a mark from its fastest to its slowest round. Readable on light and dark. */
import type { Report, Series } from './bench.js';
import { spread } from './statistics.js';

const WIDTH = 720;
const LABEL = 230;
const ROW = 26;
const HEAD = 40;
const STYLE = `text { font: 13px system-ui, sans-serif; fill: #444 } .title { font-weight: 600; font-size: 14px }
  .ours { fill: #2f7d4f } .other { fill: #9aa7b4 } .mark { stroke: #555; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) { text { fill: #ccc } .ours { fill: #4fb87a } .other { fill: #66727e } .mark { stroke: #bbb } }`;

export function drawPicture({ series }: Report): string {
  const images = [...new Set(series.map(({ image }) => image))];
  let top = 0;
  const parts: string[] = [];
  for (const image of images) {
    const group = series.filter((one) => one.image === image);
    parts.push(`<text class="title" x="0" y="${top + 24}">${escape(image.title)}: seconds for a pull</text>`);
    parts.push(...bars(group, top + HEAD));
    top += HEAD + group.length * ROW + 10;
  }
  const open = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top}" width="${WIDTH}" height="${top}" role="img">`;
  return [open, `<style>${STYLE}</style>`, ...parts, '</svg>', ''].join('\n');
}

function bars(series: Series[], top: number): string[] {
  const spreads = series.map(({ costs }) => spread(costs.map(({ wall }) => wall)));
  // Room for the number at the end of the longest bar.
  const scale = (WIDTH - LABEL - 60) / Math.max(...spreads.map(({ max }) => max));
  return series.flatMap(({ arm }, row) => {
    const { min, median, max } = spreads[row] ?? spread([]);
    const [y, middle] = [top + row * ROW, top + row * ROW + 9];
    const x = (seconds: number): string => (LABEL + seconds * scale).toFixed(1);
    const title = arm.title.replaceAll('\\|', '|');
    return [
      `<text x="${LABEL - 10}" y="${y + 14}" text-anchor="end">${escape(title)}</text>`,
      `<rect class="${arm.name === 'ours' ? 'ours' : 'other'}" x="${LABEL}" y="${y}" width="${(median * scale).toFixed(1)}" height="18" rx="2"/>`,
      `<line class="mark" x1="${x(min)}" x2="${x(max)}" y1="${middle}" y2="${middle}"/>`,
      `<text x="${(LABEL + max * scale + 8).toFixed(1)}" y="${y + 14}">${median.toFixed(2)}</text>`,
    ];
  });
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

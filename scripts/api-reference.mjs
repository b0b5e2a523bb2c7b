// Writes docs/api.md from index.d.ts: each public name with its signature and what its comment says.
//
//   node scripts/api-reference.mjs            writes the file
//   node scripts/api-reference.mjs --print    prints it
import { readFileSync, writeFileSync } from 'node:fs';
import ts from 'typescript';

const input = new URL('../index.d.ts', import.meta.url);
const output = new URL('../docs/api.md', import.meta.url);
const source = ts.createSourceFile('index.d.ts', readFileSync(input, 'utf8'), ts.ScriptTarget.ES2022, true);

const KINDS = [
  ['Functions', ts.isFunctionDeclaration],
  ['Classes', ts.isClassDeclaration],
  ['Types', (node) => ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node)],
];

/** The words of the comment above a node, as Markdown. */
function words(node) {
  const comment = node.jsDoc?.at(-1)?.getText() ?? '';
  const lines = comment.replace(/^\/\*\*|\*\/$/g, '').split('\n');
  return lines
    .map((line) => line.replace(/^\s*\* ?/, '').trimEnd())
    .join('\n')
    .replace(/\{@link (\w+)\}/g, '`$1`')
    .replace(/\s*@throws /g, '\n\nThrows ')
    .replace(/\s*@param (\w+) /g, '\n\n`$1`: ')
    .trim();
}

/** The text of a node without comments and without `declare`. */
const signature = (node) =>
  node
    .getText()
    .replace(/^declare /, '')
    .replace(/\s*\{$/, '');

function members(node) {
  const shown = node.members.filter(
    (member) => !(member.name && ts.isPrivateIdentifier(member.name)) && !/^private /.test(member.getText()),
  );
  return shown.map((member) => {
    const text = words(member).replace(/\n+/g, '\n  ');
    return `- \`${signature(member).replace(/\s+/g, ' ').replace(/;$/, '')}\`${text === '' ? '' : `  \n  ${text}`}`;
  });
}

function entry(node) {
  const lines = [`### ${node.name.text}`, ''];
  if (ts.isFunctionDeclaration(node)) lines.push('```ts', signature(node), '```', '');
  if (words(node) !== '') lines.push(words(node), '');
  if (ts.isTypeAliasDeclaration(node)) lines.push('```ts', signature(node), '```', '');
  else if (node.members?.length > 0) lines.push(...members(node), '');
  return lines;
}

const lines = [
  '# Reference',
  '',
  'Generated from `index.d.ts` by `npm run build:types`. `microsandbox-image/testing` is documented in `testing.d.ts`.',
  '',
];
for (const [title, is] of KINDS) {
  const nodes = source.statements.filter((node) => is(node) && node.name !== undefined);
  nodes.sort((left, right) => left.name.text.localeCompare(right.name.text, 'en'));
  lines.push(`## ${title}`, '', ...nodes.flatMap(entry));
}
const text = `${lines.join('\n').trimEnd()}\n`;
if (process.argv.includes('--print')) process.stdout.write(text);
else writeFileSync(output, text);

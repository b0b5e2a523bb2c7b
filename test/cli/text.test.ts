/** What the command line prints of texts from outside. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { asServed, json, printable } from '../../src/cli/text.js';

const HOSTILE = 'a\u001b[31m\u202e\u009b2J\u200b\u{e0001}\r\nb';

it('writes out what a terminal would obey or nobody would see', () => {
  assert.equal(printable(HOSTILE), 'a\\u{1b}[31m\\u{202e}\\u{9b}2J\\u{200b}\\u{e0001}\\u{d}\\u{a}b');
  assert.equal(printable('naïve 漢字'), 'naïve 漢字');
});

it('prints JSON of the same meaning without such letters', () => {
  const labels = { [HOSTILE]: [HOSTILE] };
  const text = json({ labels }, 2);
  assert.deepEqual(JSON.parse(text), { labels });
  // eslint-disable-next-line no-control-regex
  assert.ok(!/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200b\u202e]/.test(text), text);
  assert.ok(text.includes('\n  "labels"'), 'its own layout stays');
});

it('gives a pipe the bytes as they were served, and a terminal an escaped text', () => {
  assert.equal(asServed(HOSTILE, false), HOSTILE);
  assert.equal(asServed('{\n\t"a": "\u001b"}', true), '{\n\t"a": "\\u{1b}"}');
});

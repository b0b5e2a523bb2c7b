import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { tar, type TarEntry } from '../../src/testing/index.js';

const noTar = spawnSync('tar', ['--version'], { encoding: 'utf8' }).output.join('').includes('GNU tar')
  ? false
  : 'GNU tar is not installed';

/** What the real tar says of an archive, a line an entry. */
function list(archive: Buffer): string[] {
  const args = ['-t', '-v', '-f', '-', '--full-time', '--utc', '--numeric-owner', '--quoting-style=escape'];
  const { status, stdout, stderr } = spawnSync('tar', args, { input: archive, maxBuffer: 1 << 26 });
  assert.equal(stderr.toString(), '');
  assert.equal(status, 0);
  return stdout
    .toString()
    .trimEnd()
    .split('\n')
    .map((line) => line.replaceAll(/ +/g, ' '));
}

test('the real tar reads every type of entry', { skip: noTar }, () => {
  const entries: TarEntry[] = [
    { path: 'etc', type: 'directory', mtime: 1 },
    { path: 'etc/motd', content: 'hello', mode: 0o4750, uid: 10, gid: 20 },
    { path: 'link', type: 'symlink', linkTarget: 'etc/motd' },
    { path: 'again', type: 'hardlink', linkTarget: 'etc/motd' },
    { path: 'null', type: 'character', major: 1, minor: 3 },
    { path: 'sda', type: 'block', major: 8, minor: 0 },
    { path: 'pipe', type: 'fifo', mode: 0o600 },
    { path: 'usr/bin/gone', type: 'whiteout' },
    { path: 'var', type: 'opaque' },
  ];
  assert.deepEqual(list(tar(entries)), [
    'drwxr-xr-x 0/0 0 1970-01-01 00:00:01 etc/',
    '-rwsr-x--- 10/20 5 1970-01-01 00:00:00 etc/motd',
    'lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 link -> etc/motd',
    'hrw-r--r-- 0/0 0 1970-01-01 00:00:00 again link to etc/motd',
    'crw-r--r-- 0/0 1,3 1970-01-01 00:00:00 null',
    'brw-r--r-- 0/0 8,0 1970-01-01 00:00:00 sda',
    'prw------- 0/0 0 1970-01-01 00:00:00 pipe',
    '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 usr/bin/.wh.gone',
    '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 var/.wh..wh..opq',
  ]);
});

test('what has no room in a header survives in an extended one', { skip: noTar }, () => {
  const deep = `${'d'.repeat(120)}/${'n'.repeat(130)}`;
  const target = 't'.repeat(180);
  const lines = list(
    tar([
      { path: deep, uid: 3_000_000, gid: 4_000_000, mtime: '1700000000.123456789' },
      { path: 'link', type: 'symlink', linkTarget: target },
      { path: 'plain' },
    ]),
  );
  assert.deepEqual(lines, [
    `-rw-r--r-- 3000000/4000000 0 2023-11-14 22:13:20.123456789 ${deep}`,
    `lrwxrwxrwx 0/0 0 1970-01-01 00:00:00 link -> ${target}`,
    '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 plain',
  ]);
});

test('a path of up to 255 bytes is split between the two fields where it can be', () => {
  const path = `${'p'.repeat(155)}/${'n'.repeat(100)}`;
  const archive = tar([{ path }]);
  assert.equal(archive.length, 3 * 512, 'no extended header');
  assert.equal(archive.toString('latin1', 0, 100), 'n'.repeat(100));
  assert.equal(archive.toString('latin1', 345, 500), 'p'.repeat(155));
  assert.equal(tar([{ path: `p${path}` }]).length, 5 * 512, 'one byte more needs an extended header');
});

test('names that are not UTF-8 keep their bytes', { skip: noTar }, () => {
  const path = Buffer.from([0x61, 0xff, 0xfe]);
  assert.deepEqual(list(tar([{ path }])), ['-rw-r--r-- 0/0 0 1970-01-01 00:00:00 a\\377\\376']);
  const long = Buffer.concat([Buffer.alloc(200, 'x'), path]);
  assert.ok(tar([{ path: long }]).includes(long));
});

test('attributes and other records are written with their own length', () => {
  const archive = tar([{ path: 'f', xattrs: { 'user.note': Buffer.from([0, 1]) }, pax: { comment: 'c'.repeat(80) } }]);
  assert.equal(archive[156], 'x'.charCodeAt(0));
  const body = archive.subarray(512, 512 + 29 + 92);
  const first = Buffer.concat([Buffer.from('29 SCHILY.xattr.user.note='), Buffer.from([0, 1]), Buffer.from('\n')]);
  assert.equal(first.length, 29);
  assert.deepEqual(body, Buffer.concat([first, Buffer.from(`92 comment=${'c'.repeat(80)}\n`)]));
});

test('records win over the fields they are made beside', () => {
  const archive = tar([{ path: 'f', mtime: 0.5, pax: { mtime: '7' } }]);
  assert.ok(archive.includes('11 mtime=7\n'));
  assert.ok(!archive.includes('mtime=0.5'));
});

test('an archive may lack its end, carry more after it, and hold raw bytes in between', () => {
  const raw = Buffer.alloc(512, 'r');
  const archive = tar([{ path: 'a' }, raw], { endBlocks: 0, trailing: Buffer.from('more') });
  assert.equal(archive.length, 1024 + 4);
  assert.deepEqual(archive.subarray(512, 1024), raw);
  assert.equal(archive.subarray(1024).toString(), 'more');
});

test('a symbolic link without a target is refused', () => {
  assert.throws(() => tar([{ path: 'l', type: 'symlink' }]), /l needs a linkTarget/);
});

test('two hundred thousand entries are packed in a few seconds', () => {
  const entries = Array.from({ length: 200_000 }, (_, number) => ({ path: `d/${number}`, content: 'x' }));
  const began = process.hrtime.bigint();
  const archive = tar(entries);
  assert.equal(archive.length, 200_000 * 1024 + 1024);
  assert.ok(Number(process.hrtime.bigint() - began) < 30e9);
});

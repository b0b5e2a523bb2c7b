/**
 * Large real layers, made once and kept in the user's cache directory: a Debian root and a node_modules. They come from
 * the package mirrors the machine is configured for; what is in them is of no interest beyond its size and variety.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { LayerFile } from './oci-layout.js';
import { must } from './programs.js';

export interface Corpus extends LayerFile {
  /** The uncompressed archive's path. */
  file: string;
}

const directory = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'microsandbox-image-tests');

/** A Debian root (mmdebstrap, minbase): about 6,000 files. */
export function debianRoot(): Promise<Corpus> {
  return cached('debian-minbase', async (tar) => {
    // Without the format it would go by the file's ending.
    await must('mmdebstrap', ['--variant=minbase', '--format=tar', '--quiet', 'bookworm', tar]);
  });
}

/** Packages with many files, at fixed versions. */
const PACKAGES = [
  ...[
    'typescript@5.4.5',
    'date-fns@3.6.0',
    'lodash@4.17.21',
    'rxjs@7.8.1',
    'core-js@3.37.0',
    'ramda@0.30.0',
    'three@0.164.1',
  ],
  ...['antd@5.17.0', '@ant-design/icons@5.3.7', '@ant-design/icons-svg@4.4.2'],
  ...['@mui/icons-material@5.15.15', '@mui/material@5.15.15'],
];

/**
 * A large node_modules: about 60,000 small files. The packages are unpacked without what they depend on and without
 * running anything of theirs, so that it is the same tree every time.
 */
export function nodeModules(): Promise<Corpus> {
  return cached('node-modules', async (tar) => {
    const work = mkdtempSync(join(tmpdir(), 'corpus-'));
    try {
      await packModules(work, tar);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  });
}

async function packModules(work: string, tar: string): Promise<void> {
  await must('npm', ['pack', '--silent', '--ignore-scripts', ...PACKAGES], { cwd: work });
  for (const name of PACKAGES) {
    const archive = `${name.replace(/^@/, '').replaceAll(/[/@]/g, '-')}.tgz`;
    const target = join(work, 'app', 'node_modules', name.slice(0, name.lastIndexOf('@')));
    mkdirSync(target, { recursive: true });
    await must('tar', ['-xzf', join(work, archive), '-C', target, '--strip-components=1']);
  }
  const same = [
    '--sort=name',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '--mtime=@1700000000',
    '--mode=u=rwX,go=rX',
  ];
  await must('tar', [...same, '-cf', tar, '-C', work, 'app']);
}

async function cached(name: string, make: (tar: string) => Promise<void>): Promise<Corpus> {
  mkdirSync(directory, { recursive: true });
  const tar = join(directory, `${name}.tar`);
  const blob = `${tar}.gz`;
  if (!existsSync(blob)) {
    const started = Date.now();
    const unfinished = `${tar}.${process.pid}.part`;
    await make(unfinished);
    renameSync(unfinished, tar);
    writeFileSync(`${blob}.part`, gzipSync(readFileSync(tar), { level: 6 }));
    renameSync(`${blob}.part`, blob);
    console.log(`made the corpus ${name} in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  }
  return { file: tar, tar: readFileSync(tar), blob: readFileSync(blob) };
}

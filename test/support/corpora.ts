/** Large real layers, made once and kept: a Debian root and a node_modules. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { LayerFile } from './oci-layout.js';
import { must } from './programs.js';

const directory = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'microsandbox-image-tests');

/** A Debian root (mmdebstrap, minbase): about 6,000 files. */
export function debianRoot(): Promise<LayerFile> {
  return cached('debian-minbase', async (tar) => {
    await must('mmdebstrap', ['--variant=minbase', '--quiet', 'bookworm', tar]);
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
    'webpack@5.91.0',
    'eslint@8.57.0',
  ],
  ...[
    '@babel/preset-env@7.24.5',
    'jest@29.7.0',
    'react-dom@18.3.1',
    '@mui/icons-material@5.15.15',
    '@mui/material@5.15.15',
  ],
  ...[
    'antd@5.17.0',
    'aws-sdk@2.1614.0',
    'three@0.164.1',
    'ramda@0.30.0',
    'es-abstract@1.23.3',
    '@fluentui/react-icons@2.0.239',
  ],
];

/** A large node_modules: tens of thousands of small files. */
export function nodeModules(): Promise<LayerFile> {
  return cached('node-modules', async (tar) => {
    const root = `${tar}.tree`;
    mkdirSync(join(root, 'app'), { recursive: true });
    writeFileSync(join(root, 'app', 'package.json'), '{"name":"corpus","version":"1.0.0","private":true}');
    const flags = ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--legacy-peer-deps', '--prefer-offline'];
    await must('npm', [...flags, ...PACKAGES], { cwd: join(root, 'app') });
    await must('tar', ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', '-cf', tar, '-C', root, 'app']);
    rmSync(root, { recursive: true, force: true });
  });
}

async function cached(name: string, make: (tar: string) => Promise<void>): Promise<LayerFile> {
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
  return { tar: readFileSync(tar), blob: readFileSync(blob) };
}

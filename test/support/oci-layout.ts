/** Writes OCI image layouts (image-spec, image-layout.md) out of tar archives, for skopeo to push. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export interface LayerFile {
  /** The uncompressed archive. */
  tar: Buffer;
  /** The blob, if it is already compressed. */
  blob?: Buffer;
  mediaType?: string;
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** Adds an image to the layout in `directory` under a name; makes the layout if there is none. */
export function addToLayout(directory: string, name: string, layers: LayerFile[], env: string[] = []): void {
  mkdirSync(join(directory, 'blobs', 'sha256'), { recursive: true });
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const put = (mediaType: string, bytes: Buffer): Descriptor => {
    const digest = digestOf(bytes);
    writeFileSync(join(directory, 'blobs', 'sha256', digest.slice(7)), bytes);
    return { mediaType, digest, size: bytes.length };
  };
  const blobs = layers.map(({ tar, blob, mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip' }) =>
    put(mediaType, blob ?? gzipSync(tar, { level: 6 })),
  );
  const architecture = { x64: 'amd64', arm64: 'arm64' }[process.arch as string] ?? process.arch;
  const config = put(
    'application/vnd.oci.image.config.v1+json',
    Buffer.from(
      JSON.stringify({
        architecture,
        os: 'linux',
        config: { Env: env, Cmd: ['/bin/sh'], Labels: { made: 'by tests' } },
        rootfs: { type: 'layers', diff_ids: layers.map(({ tar }) => digestOf(tar)) },
      }),
    ),
  );
  const manifest = put(
    'application/vnd.oci.image.manifest.v1+json',
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config,
        layers: blobs,
      }),
    ),
  );
  const file = join(directory, 'index.json');
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as { manifests: unknown[] }).manifests : [];
  const manifests = [...before, { ...manifest, annotations: { 'org.opencontainers.image.ref.name': name } }];
  writeFileSync(file, JSON.stringify({ schemaVersion: 2, manifests }));
}

/**
 * The only importer of the addon. Nothing is loaded before the first call.
 *
 * Results cross as the text of `{ ok }` or `{ failure }`; {@link unwrap} is the one place where a failure becomes an
 * exception.
 */
import { type Failure, toImageError } from '../errors.js';
import type * as Binding from './binding.js';
import { loadAddon } from './loader.js';

let loaded: typeof Binding | undefined;

/** The addon. */
export function native(): typeof Binding {
  loaded ??= loadAddon() as typeof Binding;
  return loaded;
}

/** The value of an outcome's text, or its failure thrown. The caller says what the addon promises to answer. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters
export function unwrap<T>(text: string): T {
  const outcome = JSON.parse(text) as { ok: T } | { failure: Failure };
  if ('ok' in outcome) return outcome.ok;
  throw toImageError(outcome.failure);
}

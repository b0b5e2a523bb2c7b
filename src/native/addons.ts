/**
 * Where the addon of each target may be: beside the package in a checkout, or in the target's own package.
 *
 * Every path is literal, so that bundlers, `bun build --compile` and asar archives see it; and every `require` stands in
 * a `try` block of its own, by which bundlers know that a target that is not installed is no fault.
 */
/* eslint-disable @typescript-eslint/no-require-imports */

/** Loads a target's addon, or notes why it can't and answers `undefined`. */
type Load = (failures: unknown[]) => unknown;

/** By target. */
export const addons: Readonly<Record<string, Load>> = {
  'linux-x64-gnu': (failures) => {
    try {
      return require('../../microsandbox-image.linux-x64-gnu.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-linux-x64-gnu') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
  'linux-x64-musl': (failures) => {
    try {
      return require('../../microsandbox-image.linux-x64-musl.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-linux-x64-musl') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
  'linux-arm64-gnu': (failures) => {
    try {
      return require('../../microsandbox-image.linux-arm64-gnu.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-linux-arm64-gnu') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
  'linux-arm64-musl': (failures) => {
    try {
      return require('../../microsandbox-image.linux-arm64-musl.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-linux-arm64-musl') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
  'darwin-x64': (failures) => {
    try {
      return require('../../microsandbox-image.darwin-x64.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-darwin-x64') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
  'darwin-arm64': (failures) => {
    try {
      return require('../../microsandbox-image.darwin-arm64.node') as unknown;
    } catch (error) {
      failures.push(error);
    }
    try {
      return require('microsandbox-image-darwin-arm64') as unknown;
    } catch (error) {
      failures.push(error);
    }
    return undefined;
  },
};

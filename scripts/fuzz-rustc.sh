#!/bin/sh
# RUSTC_WRAPPER of scripts/fuzz.mjs: the crates that are fuzzed count what they run, for libFuzzer; all others are compiled
# as everywhere else, so that what the tests have compiled already is used again.
case ${CARGO_PKG_NAME-} in
  microsandbox-image-core | microsandbox-image-fuzz)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
      -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
      -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares \
      -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    ;;
  *) exec "$@" ;;
esac

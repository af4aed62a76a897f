#!/bin/sh
# Cargo calls this in place of rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER): each edge of theirs gets a
# counter. Dependencies, build scripts and the fuzzer itself stay as they are.
rustc=$1
shift
case " $* " in
*" --crate-name build_script_"* | *" --crate-name mayfly_fuzz "* | *" --crate-name ___ "*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters

#!/bin/sh
# Fetch Triton's perf_analyzer, and print where it is. It lies in a wheel of tritonclient that is old enough for any libc of
# today, and wants two libraries: one from PyPI and one from Debian, whose own package manager checks it.
set -eu
cd "$(dirname "$0")/.."
out="$PWD/.cache/perf_analyzer"
wanted=$(cksum < lock/perf-analyzer.txt)
if [ "$(cat "$out/.installed" 2>/dev/null)" != "$wanted" ]; then
    if [ "$(uname -m)" != x86_64 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo 'perf_analyzer is not tried: it is a program for x86-64, and needs libb64-0d by apt-get' >&2
        exit 1
    fi
    rm -rf "$out"
    mkdir -p "$out/parts"
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --dest "$out/parts" -r lock/perf-analyzer.txt
    (cd "$out/parts" && { apt-get download -qq libb64-0d || { apt-get update -qq && apt-get download -qq libb64-0d; }; } >&2 && dpkg-deb --extract libb64-0d*.deb .)
    for wheel in "$out"/parts/*.whl; do .venv/bin/python -m zipfile --extract "$wheel" "$out/parts"; done
    find "$out/parts" -name 'lib*.so*' -exec cp {} "$out" \;
    cp "$out"/parts/tritonclient-*.data/data/bin/perf_analyzer "$out"
    chmod +x "$out/perf_analyzer"
    rm -r "$out/parts"
    echo "$wanted" > "$out/.installed"
fi
echo "$out/perf_analyzer"

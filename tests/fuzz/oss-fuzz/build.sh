#!/bin/bash -eu
# OSS-Fuzz runs this in its container: one program, corpus and dictionary for each target go to $OUT.
# The compiled module is built with the sanitizer in $CFLAGS.
cd "$SRC/trio-ws"
# Editable, because the targets are packed with the package in this folder.
python3 -m pip install --editable ".[http2]"
for target in tests/fuzz/fuzz_*.py; do
    name=$(basename "$target" .py)
    compile_python_fuzzer "$target" --paths "$PWD" --hidden-import trio_ws.protocol.compiled
    zip -q -j "$OUT/${name}_seed_corpus.zip" "tests/fuzz/corpus/${name#fuzz_}"/*
    if [ -f "tests/fuzz/$name.dict" ]; then
        cp "tests/fuzz/$name.dict" "$OUT/"
    fi
done

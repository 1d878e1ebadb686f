#!/usr/bin/env bash
# Breaks the core on purpose, one line of make/mutants.tsv at a time, in a copy: each must turn a test red.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=target/make/mutants
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract --directory="$copy"
export CARGO_TARGET_DIR="$PWD/target/mutants"

tests() {
    (cd "$copy" && cargo test --quiet --package interlock-core --test golden --test explain --test seats) >"$copy/log" 2>&1
}

if ! tests; then
    echo "the tests fail without any breakage:" && tail -n 20 "$copy/log" && exit 1
fi
survived=0
total=0
while IFS=$'\t' read -r name file from to; do
    [[ $name == \#* ]] && continue
    total=$((total + 1))
    cp "$copy/$file" "$copy/original"
    FROM=$from TO=$to perl -0777 -i -pe 's/\Q$ENV{FROM}\E/$ENV{TO}/' "$copy/$file"
    if cmp --silent "$copy/$file" "$copy/original"; then
        result="NOT FOUND: the text is no longer in $file"
    elif tests; then
        result="SURVIVED"
    elif grep --quiet "could not compile" "$copy/log"; then
        result="DOES NOT COMPILE"
    else
        result=red
    fi
    mv "$copy/original" "$copy/$file"
    [[ $result == red ]] || survived=$((survived + 1))
    printf '%-62s %s\n' "$name" "$result"
done <make/mutants.tsv
echo "$((total - survived)) of $total breakages turned a test red"
[[ $survived == 0 ]]

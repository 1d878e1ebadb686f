#!/usr/bin/env bash
# Measures on the real engine with the images as they are built: see e2e/src/bin/bench/main.rs.
source "$(dirname "$0")/lib.sh"
need haproxy=haproxy nginx=nginx-light
say "measuring; what the containers log goes to target/bench.log"
mkdir -p target
cargo build --quiet --package interlock-e2e --bin bench
exec cargo run --quiet --package interlock-e2e --bin bench 2>target/bench.log

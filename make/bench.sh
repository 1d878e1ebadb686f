#!/usr/bin/env bash
# Measures on the real engine with the images as they are built: see e2e/src/bin/bench/main.rs. Where everything is
# measured, newer versions of the proxies come first, with short rows: each suite of Debian that answers gives one pair.
# SUITES= leaves them out.
source "$(dirname "$0")/lib.sh"
engine
need haproxy=haproxy nginx=nginx-light setpriv=util-linux docker-compose=docker-compose curl=curl
folder=target/bench
mkdir -p $folder
rm -rf $folder/versions
cargo build --quiet --package interlock-e2e --bin bench

# What the containers log goes to LOG.
measure() { cargo run --quiet --package interlock-e2e --bin bench 2>"$1"; }

failed=()
if [ -z "${ROWS:-}${PROXY:-}" ] && [ -n "${SUITES-all}" ] && have apt-get; then
  suite_pairs
  for pair in "${pairs[@]}"; do
    read -r suite haproxy nginx <<<"$pair"
    # The machine's own pair is measured in full below.
    [ "$haproxy $nginx" = "2.6 1.22" ] && continue
    make/images.sh suite "$suite"
    suite_programs "$suite" "$haproxy" "$nginx"
    say "measuring HAProxy $haproxy and nginx $nginx ($suite)"
    PATH="$BUILD/suites/$suite/bin:$PATH" INTERLOCK_HAPROXY=$haproxy INTERLOCK_NGINX=$nginx \
      BENCH_OUT=$folder/versions/$suite BENCH_QUOTE= ROWS="fast reloads churn" BENCH_ROUTES=100 \
      BENCH_SAMPLES=${BENCH_SAMPLES:-10} BENCH_RELOADS=${BENCH_RELOADS:-30} BENCH_CHURN_SECONDS=${BENCH_CHURN_SECONDS:-10} \
      measure "target/bench-$suite.log" || failed+=("$suite")
  done
  [ -n "${SUITES:-}" ] || export BENCH_VERSIONS=all
fi
say "measuring; what the containers log goes to target/bench.log"
measure target/bench.log || failed+=("the machine's own")
[ ${#failed[@]} = 0 ] || die "a bar was missed, or a row broke off, with: $(IFS=,; echo "${failed[*]}")"

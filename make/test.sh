#!/usr/bin/env bash
# The tests: test.sh all|unit|e2e|lint. The last line is the runner's own summary.
source "$(dirname "$0")/lib.sh"

lint() {
  say "formatting"
  cargo fmt --all --check
  say "lints"
  cargo clippy --locked --workspace --all-targets -- -D warnings
}

# run ARGUMENT…: the test runner; without nextest, cargo's own and one line that adds its summaries up.
run() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast --status-level fail --final-status-level fail "$@"
    return
  fi
  local log=$BUILD/tests.log result=0
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" || result=$?
  awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
  return $result
}

# The real proxies judge golden files and hostile text.
proxies() { need haproxy=haproxy nginx=nginx-light; }

case ${1:-all} in
  lint) lint ;;
  unit)
    proxies
    run --workspace --exclude interlock-e2e
    ;;
  e2e)
    engine
    need nsenter=util-linux ip=iproute2 dockerd=docker.io docker-compose=docker-compose curl=curl
    make/images.sh
    run -p interlock-e2e ${FILTER:-}
    ;;
  all)
    need cc=gcc curl=curl nsenter=util-linux ip=iproute2 dockerd=docker.io docker-compose=docker-compose
    proxies
    lint
    engine
    make/images.sh
    say "tests"
    run --workspace
    make/matrix.sh newest
    ;;
  *) die "usage: $0 all|unit|e2e|lint" ;;
esac

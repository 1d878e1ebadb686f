#!/usr/bin/env bash
# The proxies in the versions that users have: matrix.sh all|newest [all but the machine's own pair]. Each suite of
# Debian that answers gives one pair of HAProxy and nginx; the same tests run with each, and what only newer versions
# can do must have been exercised by one of them.
source "$(dirname "$0")/lib.sh"
have apt-get || die "the versions come from Debian's suites: this needs apt-get"
engine
need haproxy=haproxy nginx=nginx-light curl=curl

export INTERLOCK_EXERCISED=$BUILD/exercised
rm -rf "$INTERLOCK_EXERCISED"

suite_pairs
[ ${#pairs[@]} -gt 0 ] || die "no suite of Debian answers"
[ "${1:-all}" = newest ] && pairs=("${pairs[-1]}")

# run ARGUMENT…: the test runner.
run() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast --status-level fail --final-status-level fail "$@"
  else
    cargo test --locked --no-fail-fast "$@"
  fi
}

failed=()
for pair in "${pairs[@]}"; do
  read -r suite haproxy nginx <<<"$pair"
  make/images.sh suite "$suite"
  suite_programs "$suite" "$haproxy" "$nginx"
  say "tests with HAProxy $haproxy and nginx $nginx ($suite)"
  # Of the whole workspace, so that nothing is built anew for it.
  PATH="$BUILD/suites/$suite/bin:$PATH" INTERLOCK_HAPROXY=$haproxy INTERLOCK_NGINX=$nginx run --workspace \
    --test golden --test haproxy_render --test haproxy_hostile --test nginx_render \
    --test agent --test abilities --test haproxy_bare --test matching_table --test lifecycle || failed+=("$suite")
done
if cargo nextest --version >/dev/null 2>&1; then only=(--run-ignored only); else only=(-- --ignored); fi
run --workspace --test abilities "${only[@]}" || failed+=("abilities that no version here has")
[ ${#failed[@]} = 0 ] || die "failed: $(IFS=,; echo "${failed[*]}")"
say "all of it holds with: $(printf '%s; ' "${pairs[@]}")"

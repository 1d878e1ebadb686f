#!/usr/bin/env bash
# The demo: demo.sh up|down. Everything that it makes carries the label `dev.interlock.demo`; up can be repeated.
source "$(dirname "$0")/lib.sh"
LABEL=dev.interlock.demo
HAPROXY_PORT=${HAPROXY_PORT:-8080}
NGINX_PORT=${NGINX_PORT:-8081}
METRICS_PORT=${METRICS_PORT:-9090}
NETWORK=interlock-demo

remove() {
  docker ps -aq --filter "label=$LABEL" | xargs -r docker rm -f -v >/dev/null
  docker network ls -q --filter "label=$LABEL" | xargs -r docker network rm >/dev/null
  docker volume ls -q --filter "label=$LABEL" | xargs -r docker volume rm >/dev/null
}

# start NAME OPTION… IMAGE [ARGUMENT…]
start() {
  local name=$1
  shift
  docker run -d --name "interlock-demo-$name" --label "$LABEL=$name" "$@" >/dev/null ||
    die "could not start $name; is a port taken? (HAPROXY_PORT, NGINX_PORT and METRICS_PORT choose others)"
}

# ask PORT HOST PATH: the name of the app that answers, or nothing.
ask() {
  curl -sm 5 -H "Host: $2" "http://127.0.0.1:$1$3" | grep -o '"name":"[^"]*"' | cut -d'"' -f4
}

# settled PORT HOST PATH APP…: waits until each of the apps has answered, and no other.
settled() {
  local port=$1 host=$2 path=$3 seen= answer
  shift 3
  for _ in $(seq 120); do
    answer=$(ask "$port" "$host" "$path" || true)
    if [[ " $* " == *" ${answer:-none} "* ]]; then
      [[ " $seen " == *" $answer "* ]] || seen="$seen $answer"
      [ "$(wc -w <<<"$seen")" = $# ] && { echo "$@"; return 0; }
    else
      sleep 0.25
    fi
  done
  echo "no answer (${answer:-none})"
  return 1
}

up() {
  need curl=curl
  engine
  make/images.sh
  remove
  say "starting operator, proxies and apps"
  docker network create --label "$LABEL=network" $NETWORK >/dev/null
  docker volume create --label "$LABEL=state" interlock-demo-state >/dev/null

  # The operator sits on no network of the apps; its own carries metrics.
  start operator -p "127.0.0.1:$METRICS_PORT:9090" -v /var/run/docker.sock:/var/run/docker.sock \
    -v interlock-demo-state:/var/lib/interlock \
    interlock run --metrics 0.0.0.0:9090 --label-selector $LABEL
  start haproxy --network $NETWORK -p "$HAPROXY_PORT:80" --label interlock.ext.name=haproxy haproxy:2.6
  start nginx --network $NETWORK -p "$NGINX_PORT:80" --label interlock.ext.name=nginx nginx:1.22

  start labels --network $NETWORK --label interlock.host=labels.demo.test -e NAME=labels interlock-app
  start data --network $NETWORK -e NAME=data \
    -e 'INTERLOCK_DATA={"hostname":"data","domain":"demo.test","alias_domains":["alias.demo.test"]}' interlock-app
  for replica in 1 2; do
    start "path-$replica" --network $NETWORK -e NAME="path-$replica" \
      --label interlock.host=shop.demo.test --label interlock.path=/cart interlock-app
  done

  say "asking every route through both proxies"
  local failed=0 host path apps haproxy nginx
  printf '\n  %-36s %-22s %s\n' ROUTE "HAPROXY :$HAPROXY_PORT" "NGINX :$NGINX_PORT"
  while read -r host path apps; do
    haproxy=$(settled "$HAPROXY_PORT" "$host" "$path" $apps) || failed=1
    nginx=$(settled "$NGINX_PORT" "$host" "$path" $apps) || failed=1
    printf '  %-36s %-22s %s\n' "http://$host$path" "$haproxy" "$nginx"
  done <<'ROUTES'
labels.demo.test / labels
data.demo.test / data
alias.demo.test / data
shop.demo.test /cart path-1 path-2
ROUTES
  local metrics="http://127.0.0.1:$METRICS_PORT/metrics"
  grep -q '^interlock_build_info' <<<"$(curl -sfm 5 "$metrics")" || { failed=1; metrics="$metrics (no answer)"; }
  cat <<END

  HAProxy      curl -H 'Host: labels.demo.test' http://127.0.0.1:$HAPROXY_PORT/
  nginx        curl -H 'Host: labels.demo.test' http://127.0.0.1:$NGINX_PORT/
  metrics      $metrics
  why          docker exec interlock-demo-operator interlock why shop.demo.test/cart
  a new route  docker run -d --network $NETWORK --label $LABEL=mine --label interlock.host=mine.demo.test interlock-app
  the end      make demo-down

END
  if [ $failed != 0 ]; then
    docker logs --tail 40 interlock-demo-operator >&2 || true
    die "not every route answers as it should; everything is left running to be looked at"
  fi
}

down() {
  have docker && docker version >/dev/null 2>&1 || die "no Docker engine answers"
  remove
  # Images that no other container uses; those of a registry are somebody's own.
  if [ -z "${KEEP_IMAGES:-}" ]; then make/images.sh clean; fi
  say "the demo is gone"
}

case ${1:-} in
  up) up ;;
  down) down ;;
  *) die "usage: $0 up|down" ;;
esac

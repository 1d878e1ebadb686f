#!/usr/bin/env bash
# What the scripts share: where things are, messages, missing packages, the engine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
BUILD=$ROOT/target/make
mkdir -p "$BUILD"
export PATH="$HOME/.cargo/bin:$PATH"

if [ -t 2 ]; then BOLD=$'\e[1m'; PLAIN=$'\e[0m'; else BOLD=; PLAIN=; fi
say() { echo "${BOLD}== $*${PLAIN}" >&2; }
die() { echo "error: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo -n "$@"; else die "this needs root: $*"; fi
}

# need PROGRAM=PACKAGE…: installs the packages of the programs that are absent, and starts none of them.
need() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" have "${pair%%=*}" || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  have apt-get || die "please install: ${missing[*]} (done here for Debian only)"
  say "installing ${missing[*]}"
  # A proxy that a package starts by itself would take ports 80 and 443 from people who have none to spare.
  local policy=/usr/sbin/policy-rc.d ours=
  if [ ! -e $policy ]; then
    ours=1
    printf '#!/bin/sh\n[ "$1" = docker ] || [ "$1" = containerd ] || exit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
  fi
  local result=0
  lists
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >"$BUILD/apt.log" 2>&1 || result=$?
  [ -z "$ours" ] || as_root rm -f $policy
  [ $result = 0 ] || { tail -20 "$BUILD/apt.log" >&2; die "could not install ${missing[*]}"; }
}

# Package lists, where a fresh machine has none.
lists() {
  [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null)" ] || as_root apt-get update -qq
}

# suite_options SUITE: apt's options for another suite of Debian, with lists of its own; the machine's own apt is not
# touched. Nothing for the machine's own suite, which has no name here.
suite_options() {
  local folder=$BUILD/suites/$1
  [ -n "$1" ] || return 0
  echo "-o Dir::Etc::SourceList=$folder/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::lists=$folder/lists" \
    "-o Dir::State::status=/dev/null -o Dir::Cache=$folder -o APT::Sandbox::User=root -o Debug::NoLocking=1" \
    "-o Acquire::Languages=none"
}

# suite_lists SUITE: fetches them once a day; fails where there is no such suite.
suite_lists() {
  local folder=$BUILD/suites/$1 mirror
  [ -z "$(find "$folder/lists" -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)" ] || return 0
  mirror=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m 1 '/debian$' || echo http://deb.debian.org/debian)
  mkdir -p "$folder/lists/partial" "$folder/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$folder/sources.list"
  apt-get $(suite_options "$1") -qq update >"$folder/apt.log" 2>&1 && ! grep -q '^[EW]:.*Failed' "$folder/apt.log"
}

# suite_version SUITE PACKAGE: the first two numbers of the version that it has.
suite_version() {
  apt-cache $(suite_options "$1") policy "$2" | sed -n 's/^ *Candidate: \([0-9]*:\)\?\([0-9]*\.[0-9]*\).*/\2/p'
}

# suite_pairs: the array `pairs` of "SUITE HAPROXY NGINX", one for each suite that answers and has something new, from
# the oldest to the newest; the next stable one has no number of its own yet. SUITES names others.
suite_pairs() {
  local suite pair seen=" "
  pairs=()
  for suite in ${SUITES-bookworm trixie forky sid}; do
    suite_lists "$suite" || { say "$suite: no such suite at this mirror"; continue; }
    pair="$(suite_version "$suite" haproxy) $(suite_version "$suite" nginx)"
    [[ $seen == *" $pair "* ]] && continue   # nothing new
    seen+="$pair "
    pairs+=("$suite $pair")
    say "$suite: HAProxy ${pair% *}, nginx ${pair#* }"
  done
}

# suite_programs SUITE HAPROXY NGINX: the images' own programs, to be found first in a PATH. Each is a program like any
# other: it finds its loader and its libraries by itself, so that whoever looks at its process sees what it is.
suite_programs() {
  local name version folder container bin=$BUILD/suites/$1/bin
  need patchelf=patchelf
  rm -rf "$bin"
  mkdir -p "$bin"
  for name in haproxy nginx; do
    [ $name = haproxy ] && version=$2 || version=$3
    folder=$BUILD/suites/$1/$name
    rm -rf "$folder"
    mkdir -p "$folder"
    container=$(docker create "$name:$version")
    docker export "$container" | tar -x -C "$folder" --no-same-owner --exclude=dev
    docker rm "$container" >/dev/null
    install "$(find "$folder/usr" -path '*/sbin/*' -name $name -type f | head -1)" "$bin/$name"
    patchelf --force-rpath \
      --set-rpath "$(find "$folder/lib/" "$folder/usr/lib/" -maxdepth 1 -type d -name '*-linux-gnu*' 2>/dev/null | paste -sd:)" \
      --set-interpreter "$(find "$folder"/lib*/ "$folder"/usr/lib*/ -maxdepth 1 -name 'ld-linux*.so.*' 2>/dev/null | head -1)" \
      "$bin/$name"
  done
}

# Where `docker` itself comes from the environment (DOCKER_HOST) it is somebody's own choice and only asked.
engine() {
  need docker=docker.io
  docker version >/dev/null 2>&1 && return 0
  [ -z "${DOCKER_HOST:-}" ] || die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
  PATH="$PATH:/usr/sbin:/sbin" have dockerd || need dockerd=docker.io
  say "starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker || true
  elif ! pgrep -x dockerd >/dev/null; then
    as_root sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &'
  fi
  for _ in $(seq 150); do docker version >/dev/null 2>&1 && return 0; sleep 0.2; done
  docker version >&2 || true
  die "the Docker engine does not answer (is this user allowed to use it? see /var/log/dockerd.log)"
}

# build_image DIRECTORY TAG…: a plain build; the classic builder where the client has no buildx.
build_image() {
  local directory=$1 arguments=() tag
  shift
  for tag in "$@"; do arguments+=(-t "$tag"); done
  if docker buildx version >/dev/null 2>&1; then
    DOCKER_BUILDKIT=1 docker build -q "${arguments[@]}" "$directory" >/dev/null
  else
    DOCKER_BUILDKIT=0 docker build -q "${arguments[@]}" "$directory" 2> >(grep -v -e DEPRECATED -e BuildKit -e buildx -e 'environment-variable' -e '^$' >&2) >/dev/null
  fi
}

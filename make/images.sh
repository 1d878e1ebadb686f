#!/usr/bin/env bash
# Builds the images; each is left alone while nothing that it is made of has changed. `images.sh clean` removes them.
# `images.sh suite NAME` builds the stock proxies of another suite of Debian instead (see make/matrix.sh).
#
#   interlock          the static binary from scratch
#   interlock-haproxy  a proxy with the agent as entry point
#   interlock-nginx    likewise
#   haproxy, nginx     the official ones where a registry answers; else equal ones out of Debian's packages
#   interlock-app      the app of demo and tests
source "$(dirname "$0")/lib.sh"
HAPROXY=haproxy:2.6
NGINX=nginx:1.22
TAG=${INTERLOCK_TAG:-latest}   # of the images of ours, so that two checkouts can share an engine
MADE=dev.interlock.made   # the label that says from what an image of ours was made

tags() { docker images --filter "label=$MADE" --format '{{.Repository}}:{{.Tag}}' | sed '/<none>/d' | sort -r; }

if [ "${1:-}" = clean ]; then
  # Twice, because one may be made from another. An image that a container still uses stays.
  for _ in 1 2; do for tag in $(tags); do docker rmi "$tag" >/dev/null 2>&1 || true; done; done
  docker image prune -f --filter "label=$MADE" >/dev/null
  left=$(tags | paste -sd' ')
  [ -z "$left" ] || say "still in use by containers: $left"
  exit
fi

digest() { sha256sum | cut -c1-16; }

# current IMAGE DIGEST: whether IMAGE was made from exactly this.
current() { [ "$(docker image inspect -f "{{index .Config.Labels \"$MADE\"}}" "$1" 2>/dev/null)" = "$2" ]; }

# pack IMAGE DIRECTORY DIGEST TAG…: builds images/IMAGE/Dockerfile with DIRECTORY/rootfs.tar beside it.
pack() {
  local image=$1 directory=$2 made=$3
  shift 3
  { cat "images/$image/Dockerfile"; echo "LABEL $MADE=\"$made\""; } >"$directory/Dockerfile"
  build_image "$directory" "$@"
}

# from_registry IMAGE: pulls it if a registry answers at once; asked once in a run.
from_registry() {
  if [ -z "${REGISTRY:-}" ]; then
    REGISTRY=no
    if curl -sm 5 -o /dev/null https://registry-1.docker.io/v2/ 2>/dev/null ||
      [ "$(docker info -f '{{len .RegistryConfig.Mirrors}}' 2>/dev/null || echo 0)" != 0 ]; then REGISTRY=yes; fi
  fi
  [ $REGISTRY = yes ] && timeout 120 docker pull -q "$1" >/dev/null 2>&1
}

# debian_files PACKAGE DIRECTORY: the package and everything that it depends on, unpacked, whatever is installed here.
debian_files() {
  local package=$1 directory=$2 folder
  have apt-get || die "no registry answers, and equal images can be made from Debian's packages only"
  [ -n "$SUITE" ] || lists
  rm -rf "$directory"
  mkdir -p "$directory/debs/partial" "$directory/files"
  # An empty status file makes apt fetch the whole closure.
  apt-get $(suite_options "$SUITE") -qq -y --no-install-recommends -o Dir::State::status=/dev/null -o Debug::NoLocking=1 \
    -o APT::Sandbox::User=root -o "Dir::Cache::archives=$directory/debs" -d install $package \
    >"$directory/apt.log" 2>&1 || { cat "$directory/apt.log" >&2; die "could not fetch $package (try: apt-get update)"; }
  for deb in "$directory"/debs/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$directory/files" --no-same-owner; done
  # Newer suites have everything below usr, and the links to it in no package's files.
  for folder in bin sbin lib lib64; do
    [ -e "$directory/files/$folder" ] || [ ! -d "$directory/files/usr/$folder" ] || ln -s "usr/$folder" "$directory/files/$folder"
  done
}

# with_libraries FILES ROOTFS PROGRAM…: copies programs, their libraries and the loader from one tree to the other,
# each to where the distribution has it, so that the loader needs no cache.
with_libraries() {
  local files=$1 rootfs=$2 program file loader path
  shift 2
  path=$(find "$files/lib/" "$files/usr/lib/" -maxdepth 1 -type d -name '*-linux-gnu*' | paste -sd:)
  loader=$(find "$files"/lib*/ "$files"/usr/lib*/ -maxdepth 1 -name 'ld-linux*.so.*' 2>/dev/null | head -1)
  {
    echo "$loader"
    for program in "$@"; do
      echo "$files/$program"
      "$loader" --library-path "$path" --list "$files/$program" | grep -o "$files[^ ]*"
    done
  } | sort -u | while read -r file; do install -D "$file" "$rootfs/${file#"$files"/}"; done
}

# A tree that every image starts from: users, name service, certificates' folder, a place for temporary files.
base_tree() {
  local rootfs=$1 user=$2 id=$3
  mkdir -p "$rootfs"/{etc,run,tmp,usr/local/bin,var/run}
  chmod 1777 "$rootfs/tmp"
  printf 'root:x:0:0:root:/root:/bin/sh\n%s:x:%s:%s::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n' \
    "$user" "$id" "$id" >"$rootfs/etc/passwd"
  printf 'root:x:0:\n%s:x:%s:\nnogroup:x:65534:\n' "$user" "$id" >"$rootfs/etc/group"
  echo 'hosts: files dns' >"$rootfs/etc/nsswitch.conf"
}

# archive DIRECTORY [FOLDER USER-ID]: rootfs → rootfs.tar, all of root's but FOLDER.
archive() {
  local directory=$1 folder=${2:-} id=${3:-}
  (cd "$directory/rootfs" && tar -cf ../rootfs.tar --owner=0 --group=0 --numeric-owner ${folder:+--exclude="./$folder"} . &&
    if [ -n "$folder" ]; then tar -rf ../rootfs.tar --owner="$id" --group="$id" --numeric-owner "./$folder"; fi)
}

stock_haproxy() {
  local directory=$BUILD/haproxy rootfs=$BUILD/haproxy/rootfs files=$BUILD/haproxy/files
  debian_files "haproxy dash" "$directory"
  base_tree "$rootfs" haproxy 99
  with_libraries "$files" "$rootfs" usr/sbin/haproxy bin/dash
  mkdir -p "$rootfs"/{usr/local/sbin,usr/local/etc/haproxy,var/lib/haproxy,bin}
  mv "$rootfs/usr/sbin/haproxy" "$rootfs/usr/local/sbin/haproxy"
  ln -s dash "$rootfs/bin/sh"
  cp -r "$files/etc/haproxy/errors" "$rootfs/usr/local/etc/haproxy/errors"
  install images/haproxy/docker-entrypoint.sh "$rootfs/usr/local/bin/docker-entrypoint.sh"
  archive "$directory" var/lib/haproxy 99
}

stock_nginx() {
  local directory=$BUILD/nginx rootfs=$BUILD/nginx/rootfs files=$BUILD/nginx/files
  debian_files "nginx dash" "$directory"
  base_tree "$rootfs" nginx 101
  with_libraries "$files" "$rootfs" usr/sbin/nginx bin/dash
  ln -s dash "$rootfs/bin/sh"
  mkdir -p "$rootfs"/{etc/nginx/conf.d,usr/share/nginx/html,var/log/nginx,var/cache/nginx,var/lib/nginx,var/lock}
  cp "$files/etc/nginx/mime.types" "$rootfs/etc/nginx/"
  cp images/nginx/nginx.conf "$rootfs/etc/nginx/nginx.conf"
  cp images/nginx/default.conf "$rootfs/etc/nginx/conf.d/default.conf"
  cp images/nginx/index.html "$rootfs/usr/share/nginx/html/index.html"
  ln -s /dev/stdout "$rootfs/var/log/nginx/access.log"
  ln -s /dev/stderr "$rootfs/var/log/nginx/error.log"
  archive "$directory" var/cache/nginx 101
}

# stock NAME IMAGE: the official image, or an equal one.
stock() {
  local name=$1 image=$2 made tag
  made=$( (echo "$SUITE"; cat make/images.sh make/lib.sh images/"$name"/*) | digest)
  docker image inspect "$image" >/dev/null 2>&1 &&
    [ -z "$(docker image inspect -f "{{index .Config.Labels \"$MADE\"}}" "$image")" ] && return 0   # the official one
  current "$image" "$made" && return 0
  from_registry "$image" && { say "$image: official"; return 0; }
  say "$image: out of Debian's packages${SUITE:+ of $SUITE}"
  rm -rf "${BUILD:?}/$name"
  mkdir -p "$BUILD/$name"
  "stock_$name"
  pack "$name" "$BUILD/$name" "$made" "$image"
  rm -rf "${BUILD:?}/$name"
  # The seeds say `docker run haproxy`; an official `latest` is not replaced.
  [ -n "$SUITE" ] && return 0
  if [ -z "$(docker images -q "$name:latest")" ] || [ -n "$(docker images -q --filter "label=$MADE" "$name:latest")" ]; then
    docker tag "$image" "$name:latest"
  fi
}

# static_image NAME BINARY…: an image with static binaries and nothing else.
static_image() {
  local name=$1 directory=$BUILD/$1 made binary
  shift
  made=$( (cat make/images.sh images/"$name"/*; for binary in "$@"; do cat "target/$TARGET/$PROFILE/$binary"; done) | digest)
  current "$name:$TAG" "$made" && return 0
  say "$name:$TAG"
  rm -rf "$directory"
  base_tree "$directory/rootfs" interlock 990
  for binary in "$@"; do install "target/$TARGET/$PROFILE/$binary" "$directory/rootfs/usr/local/bin/"; done
  mkdir -p "$directory/rootfs"/{run/interlock/agents,var/lib/interlock}
  archive "$directory"
  pack "$name" "$directory" "$made" "$name:$TAG"
  rm -rf "$directory"
}

# agent_image NAME BASE: the proxy with the agent as its entry point.
agent_image() {
  local name=$1 base=$2 directory=$BUILD/$1 made
  made=$( (cat make/images.sh images/"$name"/*; docker image inspect -f '{{.Id}}' "$base"; cat "target/$TARGET/$PROFILE/interlock") | digest)
  current "$name:$TAG" "$made" && return 0
  say "$name:$TAG"
  rm -rf "$directory"
  mkdir -p "$directory/rootfs"/{usr/local/bin,run/interlock/agents}
  install "target/$TARGET/$PROFILE/interlock" "$directory/rootfs/usr/local/bin/"
  archive "$directory"
  pack "$name" "$directory" "$made" "$name:$TAG"
  rm -rf "$directory"
}

engine
SUITE=
if [ "${1:-}" = suite ]; then
  haproxy=haproxy:$(suite_version "$2" haproxy) nginx=nginx:$(suite_version "$2" nginx)
  # The machine's own suite has its pair made by everybody else, too: the same one.
  [ "$2" = "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" ] || SUITE=$2
  stock haproxy "$haproxy"
  stock nginx "$nginx"
  exit
fi
PROFILE=${PROFILE:-image}
TARGET=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
stock haproxy "$HAPROXY"
stock nginx "$NGINX"
make/static.sh interlock app docker-filter
static_image interlock interlock
static_image interlock-app app
static_image interlock-docker-filter docker-filter
agent_image interlock-haproxy "$HAPROXY"
agent_image interlock-nginx "$NGINX"
docker image prune -f --filter "label=$MADE" >/dev/null   # what was replaced
say "images: $(docker images --filter "label=$MADE" --format '{{.Repository}}:{{.Tag}} {{.Size}}' | sort | paste -sd, | sed 's/,/, /g')"

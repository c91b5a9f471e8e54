# Sourced by setup/environment.sh: the uv that installs. The pinned version is the one in
# requirements-local.txt; where it must be fetched, the hashes there decide.
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
    version=$(UV_NO_CONFIG=1 "$candidate" --version 2>/dev/null) || version='uv 0'
    version=${version#uv } && version=${version%% *}
    case $version in *[!0-9.]* | '') version=${version%%[!0-9.]*} ;; esac
    if not_older "${version:-0}" "$pin"; then
      UV=$(command -v "$candidate")
      return 0
    fi
    [ "$candidate" != "$UV" ] || warn "UV=$UV does not run or is older than $pin; not using it"
  done
  UV=''
  return 1
}

# find_any_uv: like find_uv; else the pinned one from uv's cache or another checkout of the kit,
# where it has the pinned hash; else fetched with whichever Python has pip.
find_any_uv() {
  local python
  find_uv && return 0
  for python in ${PYTHON:+"$PYTHON"} python3 python; do
    if borrow_uv "$python"; then return 0; fi
  done
  for python in ${PYTHON:+"$PYTHON"} python3 python; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      fetch_uv "$python" && return 0
    fi
  done
  return 1
}

# borrow_uv PYTHON: needs no network.
borrow_uv() {
  local pin cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/uv}
  pin=$(uv_pin)
  "$1" -I -S "$KIT_ROOT/scripts/setup/borrow_uv.py" "$KIT_ROOT" "$pin" "$cache" 2>/dev/null ||
    return 1
  note "uv $pin was here already, and has the pinned hash: nothing is fetched"
  UV=$ENVS/uv-$pin/bin/uv
}

# fetch_uv PYTHON: the wheel of the pinned uv by pip, by the hashes of our own lock. It is kept:
# another checkout without a network takes it from here.
fetch_uv() {
  local pin part
  pin=$(uv_pin)
  part=$ENVS/.uv-${ENV_NAME:-lock}.part # another set-up may be fetching it too
  note "fetching uv $pin with pip (none on PATH that is $pin or newer)"
  rm -rf "$part"
  mkdir -p "$part"
  awk '/^[^ #]/ { on = /^uv==/ } on' "$KIT_ROOT/requirements-local.txt" >"$part/uv.txt"
  pip_settings
  # `download` takes no user, prefix or target of pip's configuration
  run_with_ticker "fetching uv" "$1" -m pip download --quiet --no-deps --only-binary :all: \
    --disable-pip-version-check \
    --require-hashes --dest "$part" -r "$part/uv.txt" >&2 || return 1
  "$1" -I -S "$KIT_ROOT/scripts/setup/borrow_uv.py" "$KIT_ROOT" "$pin" "$part" >&2 || return 1
  rm -rf "$part"
  UV=$ENVS/uv-$pin/bin/uv
}

# pip_source: pip's own source in $ENVS/.pip, for a Python that came without pip and venv, as
# Debian's does. git checks what it fetched by the commit's hash; pip carries all that it needs.
PIP_TAG=26.2.1 PIP_COMMIT=634a6ec1a5d9dcc2433571cdb2f4c58a4bb29caf
pip_source() {
  local place=$ENVS/.pip
  note "this Python has neither pip nor venv: fetching pip $PIP_TAG's source with git"
  rm -rf "$place"
  git -c advice.detachedHead=false clone -q --depth 1 --branch "$PIP_TAG" \
    https://github.com/pypa/pip "$place" </dev/null >&2 || return 1
  [ "$(git -C "$place" rev-parse HEAD)" = "$PIP_COMMIT" ] && return 0
  warn "pip $PIP_TAG is another commit there than $PIP_COMMIT; not using it"
  return 1
}

# need_uv: the uv that installs, or end with the remedy.
need_uv() {
  find_any_uv && return 0
  local code=1
  if "$PYTHON" -m venv "$ENVS/.pip" >/dev/null 2>&1; then
    fetch_uv "$ENVS/.pip/bin/python" && code=0
  elif ! "$PYTHON" -m pip --version >/dev/null 2>&1 && pip_source; then
    PYTHONPATH=$ENVS/.pip/src fetch_uv "$PYTHON" && code=0
  fi
  rm -rf "$ENVS/.pip"
  [ "$code" != 0 ] || return 0
  die "uv $(uv_pin) could not be fetched with pip; check the network and PIP_INDEX_URL," \
    "or install uv (https://docs.astral.sh/uv) or pip (apt install python3-pip python3-venv)"
}

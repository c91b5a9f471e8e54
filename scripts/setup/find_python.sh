# Sourced by setup/environment.sh: which Python an environment is made with. bash 3.2.
# TANDEM_PYTHON is a version (3.10 to 3.13) or the path of an interpreter. Without it the Python
# of the environment that is there stays the choice, else it is 3.10.
# shellcheck shell=bash disable=SC2034

WANTED_PYTHON=${TANDEM_PYTHON:-3.10}
PYTHON='' LACKING=''

# python_facts PYTHON VERSION: "<base interpreter>|<version>|<machine>|<modules that it lacks>", or
# nothing if it does not run or is another version ('any' stands for 3.10 to 3.13). The base
# interpreter is asked for, so that an active virtual environment is not built upon. A Python that
# was compiled without a library's headers lacks that module.
python_facts() {
  "$1" -I -c 'import sys
own = "%d.%d" % sys.version_info[:2]
if own != sys.argv[1] and (sys.argv[1] != "any" or own not in ("3.10", "3.11", "3.12", "3.13")):
    sys.exit(1)
import os, platform
lacking = []
for name in ("ssl", "sqlite3", "ctypes", "lzma", "bz2", "zlib", "socket", "hashlib", "uuid", "fcntl"):
    try:
        __import__(name)
    except ImportError:
        lacking.append(name)
base = getattr(sys, "_base_executable", None) or sys.executable
if sys.prefix != sys.base_prefix and base.startswith(sys.prefix + os.sep):
    places = os.path.join(sys.base_prefix, "bin", "python" + own), os.path.realpath(base)
    base = next(place for place in (*places, base) if os.path.exists(place))
print(base, platform.python_version(), platform.machine(), " ".join(lacking), sep="|")' "$2" 2>/dev/null
}

# fits PYTHON VERSION: set PYTHON, PYTHON_VERSION and PYTHON_MACHINE if it is that version.
# An x86 build on Apple silicon does not fit, nor does one without modules of the standard library
# that the packages import.
fits() {
  local facts base version machine lacking
  facts=$(python_facts "$1" "$2") || return 1
  IFS='|' read -r base version machine lacking <<<"$facts"
  case "$2:$version" in
    any:3.10.* | any:3.11.* | any:3.12.* | any:3.13.* | "$2:$2".*) ;;
    *) return 1 ;;
  esac
  if [ "$machine" = x86_64 ] && on_apple_silicon; then
    TRANSLATED=$1
    return 1
  fi
  if [ -n "$lacking" ]; then
    LACKING="$1 was built without ${lacking// /, }"
    return 1
  fi
  PYTHON=$base PYTHON_VERSION=$version PYTHON_MACHINE=$machine
}

on_apple_silicon() { [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" = 1 ]; }

# candidates PLACE VERSION: the interpreters there that may be that version, one a line.
candidates() {
  local root
  case $1 in
    path) type -ap "python$2" python3 python | grep -v '/shims/' ;;
    pyenv)
      for root in ${PYENV_ROOT+"$PYENV_ROOT"} "$HOME/.pyenv"; do
        printf '%s\n' "$root/versions/$2."*/bin/python
      done
      ;;
    uv)
      if [ -n "$UV" ]; then
        UV_NO_CONFIG=1 "$UV" python find --no-python-downloads "$2" 2>/dev/null
      fi
      printf '%s\n' "$KIT_ROOT/.cache/python/cpython-$2."*/bin/python3
      ;;
    conda)
      for root in "$HOME/miniforge3" "$HOME/miniconda3" "$HOME/anaconda3" /opt/miniforge3 \
        /opt/conda /opt/miniconda3 /opt/homebrew /usr/local; do
        printf '%s\n' "$root/bin/python$2" "$root/envs/"*"/bin/python$2"
      done
      ;;
    shims) type -ap "python$2" python3 python | grep '/shims/' ;;
  esac || true
}

# search VERSION: the first that fits. A version manager's shims are slow and run only where a
# version is chosen, so they come last.
search() {
  local place candidate last=''
  for place in path pyenv uv conda shims; do
    while IFS= read -r candidate; do
      if [ -x "$candidate" ] && ! [ "$candidate" -ef "$last" ]; then # /bin may be /usr/bin
        fits "$candidate" "$1" && return 0
        last=$candidate
      fi
    done < <(candidates "$place" "$1")
  done
  return 1
}

# remembered_python: the very interpreter that the environment which is there was made with.
remembered_python() {
  local path=${STAMPED_PYTHON#* }
  if [ -n "${TANDEM_PYTHON:-}" ] || [ -z "${STAMPED_PYTHON:-}" ]; then return 1; fi
  case $path in "$ENVS"/*) return 1 ;; esac # conda's is in the environment itself
  fits "$path" "$WANTED_PYTHON"
}

# download_python: let uv fetch the wanted version for this user; quick to give up.
download_python() {
  if [ "$MODE" = check ] || ! find_any_uv; then return 1; fi
  note "no Python $WANTED_PYTHON here; asking uv for one (uv python install $WANTED_PYTHON)"
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-20} UV_HTTP_RETRIES=${UV_HTTP_RETRIES:-0}
  run_with_ticker "fetching Python $WANTED_PYTHON" fetch_python && search "$WANTED_PYTHON"
}

fetch_python() { "$UV" python install --quiet "$WANTED_PYTHON" >/dev/null 2>&1; }

# find_python: set PYTHON, PYTHON_VERSION, PYTHON_MACHINE, or end with the remedy.
find_python() {
  local version
  TRANSLATED=''
  case $WANTED_PYTHON in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    */*)
      fits "$WANTED_PYTHON" any || refuse_python
      return 0
      ;;
    *) usage_error "TANDEM_PYTHON=$WANTED_PYTHON; it is 3.10 to 3.13, or a path" ;;
  esac
  remembered_python && return 0
  search "$WANTED_PYTHON" && return 0
  [ -z "$TRANSLATED" ] || refuse_python
  download_python && return 0
  for version in 3.11 3.12 3.13 3.10; do
    if search "$version"; then
      warn "no Python $WANTED_PYTHON found: using $PYTHON ($PYTHON_VERSION), which stays the choice;" \
        "to change: uv python install $WANTED_PYTHON && TANDEM_PYTHON=$WANTED_PYTHON ./$PROGRAM"
      return 0
    fi
  done
  [ -z "$TRANSLATED" ] || refuse_python # one of the other versions
  [ -z "$LACKING" ] || die "$LACKING, which the packages need; install another Python 3.10 to 3.13" \
    "(uv python install 3.10), or name one in TANDEM_PYTHON"
  die "no Python 3.10 to 3.13 on PATH, in pyenv, uv or conda;" \
    "install one (brew install python@3.10, apt install python3, or uv python install 3.10)"
}

# refuse_python: say why the interpreter that was named or found is of no use.
refuse_python() {
  [ -z "$TRANSLATED" ] || die "$TRANSLATED is an x86_64 Python on an Apple silicon Mac, every" \
    "package would run translated; install an arm64 one (arch -arm64 brew install python@3.10)" \
    "and name it in TANDEM_PYTHON"
  [ -z "$LACKING" ] || die "$LACKING, which the packages need; name another Python in TANDEM_PYTHON," \
    "or build it again with the libraries' headers (apt install libsqlite3-dev libffi-dev libssl-dev)"
  usage_error "TANDEM_PYTHON=$WANTED_PYTHON is not a Python 3.10 to 3.13 that runs; name another"
}

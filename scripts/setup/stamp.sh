# Sourced by setup/environment.sh: is there anything to do? An environment's stamp says what it was
# made for and with, and how many of its files had not changed when it was written.
# shellcheck shell=bash disable=SC2034,SC2153

RECIPE=1 # raise it when environments must be built again though no lock changed
STAMPED_PYTHON=''

# request: all that decides which environment is wanted, without starting an interpreter.
request() { printf 'recipe %s, Python %s, %s' "$RECIPE" "$WANTED_PYTHON" "$(uname -sm)"; }

# asked_for: whether the environment that is there was made for this recipe, system and Python.
asked_for() {
  case $STAMPED_REQUEST in
    "recipe $RECIPE, Python "*", $(uname -sm)") python_is_wanted ;;
    *) return 1 ;;
  esac
}

# python_is_wanted: without TANDEM_PYTHON the one that is there, if it is 3.10 to 3.13.
python_is_wanted() {
  local version=${STAMPED_PYTHON%% *} path=${STAMPED_PYTHON#* }
  case ${TANDEM_PYTHON:-} in
    '') case $version in 3.10.* | 3.11.* | 3.12.* | 3.13.*) return 0 ;; esac ;;
    */*) case $STAMPED_REQUEST in *", Python $TANDEM_PYTHON, "*) return 0 ;; esac ;;
    *) case $version in "$TANDEM_PYTHON".*) return 0 ;; esac ;;
  esac
  # another text for the same interpreter, or the wanted one could not be had
  [ -n "$PYTHON" ] && [ "$PYTHON_VERSION $PYTHON" = "$version $path" ]
}

# same_pins LOCK LOCK: whether they differ in comments alone.
same_pins() {
  cmp -s "$1" "$2" || cmp -s <(pins_of "$1") <(pins_of "$2")
}

pins_of() { sed '/^ *#/d; /^ *$/d' "$1"; }

# unchanged_files ENV STAMP: how many of its files have not changed since STAMP, by the time of
# their inode, which no program can set back. A file that was written or removed since makes the
# number smaller, and so does a link that another environment made or dropped: that costs one
# comparison. Headers and type stubs (include, third_party) are left to --check, and two processes
# share the rest: it is all system calls.
unchanged_files() {
  local stamp=$2 folder
  for folder in "$1"/lib/python3*/site-packages; do cd "$folder" && break; done
  {
    look_at "$stamp" [a-pA-P_]* &
    look_at "$stamp" [!a-pA-P_]* ../../../bin
    wait
  } 2>/dev/null | wc -l
}

look_at() {
  local stamp=$1
  shift
  find "$@" \( -name __pycache__ -o -name include -o -name third_party \) -prune -o \
    -type f ! -cnewer "$stamp" -print
}

# env_state: sets STATE to one of: absent, other (another lock, Python, recipe or backend),
# suspect (files changed since the stamp), untidy (a killed run left a folder beside it), ready.
# Reads the stamp into STAMPED_*.
env_state() {
  local stamp=$LINK/.tandem/stamp
  STATE=absent STAMPED_REQUEST='' STAMPED_BACKEND='' STAMPED_FILES='' STAMPED_PYTHON=''
  STAMPED_GPU=''
  if [ ! -L "$LINK" ] || [ ! -f "$stamp" ] || [ ! -x "$LINK/bin/python" ]; then return 0; fi
  {
    read -r STAMPED_REQUEST
    read -r STAMPED_BACKEND
    read -r STAMPED_FILES
    read -r STAMPED_PYTHON
    read -r STAMPED_GPU
  } <"$stamp" || return 0
  remember_version
  STATE=other
  asked_for || return 0
  case $BACKEND in auto | "$STAMPED_BACKEND") ;; *) return 0 ;; esac
  if [ "$LINK/bin/python" -nt "$stamp" ] || ! same_pins "$LOCK" "$LINK/.tandem/lock.txt"; then
    return 0
  fi
  STATE=suspect
  [ ! -e "$LINK/.tandem/suspect" ] || return 0
  [ "$(unchanged_files "$LINK" "$stamp")" -eq "$STAMPED_FILES" ] 2>/dev/null || return 0
  STATE=ready
  set -- "$ENVS/$ENV_NAME"-*
  if [ $# -gt 1 ]; then STATE=untidy; fi
}

# remember_version: without TANDEM_PYTHON the version of the environment that is there is wanted.
remember_version() {
  if [ -z "${TANDEM_PYTHON:-}" ]; then
    case $STAMPED_PYTHON in
      3.10.* | 3.11.* | 3.12.* | 3.13.*) WANTED_PYTHON=$(cut -d . -f 1,2 <<<"${STAMPED_PYTHON%% *}") ;;
    esac
  fi
}

# write_stamp: the last thing, for $FOLDER; it is as old as the mark there, which was written before
# the verification ended.
write_stamp() {
  local folder=$FOLDER/.tandem files
  files=$(unchanged_files "$FOLDER" "$folder/mark")
  printf '%s\n' "$(request)" "$STAMPED_BACKEND" "$((files))" "$STAMPED_PYTHON" "$GPU" \
    >"$folder/stamp.part"
  touch -r "$folder/mark" "$folder/stamp.part"
  rm -f "$folder/suspect"
  mv -f "$folder/stamp.part" "$folder/stamp"
}

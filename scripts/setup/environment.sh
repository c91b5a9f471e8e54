# Sourced by setup_local.sh and setup_remote.sh: build, verify and publish an environment.
#
#   .envs/<name>-<fingerprint>/   the environment; .tandem/ in it holds the copy of the lock, the
#                                 seal (hash of every RECORD) and, last of all, the stamp
#   .venv-<name>                  the link that is switched to it
#   .envs/.lock-<name>            held with flock(2) while one is built; the kernel frees it
#
# A folder without a stamp was never finished, and is deleted by the next run.
# shellcheck shell=bash disable=SC2034

# shellcheck source=scripts/setup/find_python.sh
. "$KIT_ROOT/scripts/setup/find_python.sh"
# shellcheck source=scripts/setup/find_uv.sh
. "$KIT_ROOT/scripts/setup/find_uv.sh"

RECIPE=1 # raise it when environments must be built again though no lock changed
ENVS=$KIT_ROOT/.envs
VERIFY=$KIT_ROOT/scripts/setup/verify_environment.py
STEP='' CHILD='' UV=${UV:-} DAMAGED='' UNFINISHED='' GPU=none

# environment NAME: which one this command makes, and the settings that would spoil it.
environment() {
  ENV_NAME=$1
  LINK=$KIT_ROOT/.venv-$1
  LOCK=${TANDEM_LOCK:-$KIT_ROOT/requirements-$1.txt}
  [ -f "$LOCK" ] ||
    usage_error "$LOCK: there is no such lock; restore it (git checkout -- ${LOCK##*/})"
  unset PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIRE_VIRTUALENV PYTHONPATH PYTHONHOME
  unset VIRTUAL_ENV CONDA_PREFIX UV_PROJECT_ENVIRONMENT
  export PYTHONNOUSERSITE=1 HOME=${HOME:-/}
  trap 'stop INT 130' INT
  trap 'stop TERM 143' TERM
  trap 'stop HUP 129' HUP
  trap 'ended $?' EXIT
}

# --- interruptions ------------------------------------------------------------------------
# run COMMAND...: as a child that INT and TERM reach at once, not only when it has ended.
run() {
  local code=0
  "$@" &
  CHILD=$!
  wait "$CHILD" || code=$?
  CHILD=''
  return "$code"
}

stop() {
  trap '' INT TERM HUP
  if [ -n "$CHILD" ]; then
    kill -TERM "$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
  fi
  note "$PROGRAM: interrupted ($1) at: ${STEP:-start}; run it again to finish," \
    "what stood before still works"
  STEP=''
  exit "$2"
}

# ended CODE: at every exit. What was being built is of no use to anybody.
ended() {
  trap '' INT TERM HUP
  if [ -n "$UNFINISHED" ]; then rm -rf "$UNFINISHED"; fi
  if [ "$1" -ne 0 ] && [ -n "$STEP" ]; then note "$PROGRAM: stopped at: $STEP"; fi
}

step() {
  STEP=$1
  say "$1"
}

# --- is there anything to do? -------------------------------------------------------------
# request: all that decides which environment is wanted, without starting an interpreter.
request() { printf 'recipe %s, Python %s, %s' "$RECIPE" "$WANTED_PYTHON" "$(uname -sm)"; }

# unchanged_files ENV STAMP: how many of its files are not newer than STAMP. A file that was
# written or removed since makes the number smaller. Headers and type stubs (include,
# third_party) are left to --check, and two processes share the rest: it is all system calls.
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
    -type f ! -newer "$stamp" -print
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
  STATE=other
  [ "$STAMPED_REQUEST" = "$(request)" ] || return 0
  case $BACKEND in auto | "$STAMPED_BACKEND") ;; *) return 0 ;; esac
  if [ "$LINK/bin/python" -nt "$stamp" ] || ! cmp -s "$LOCK" "$LINK/.tandem/lock.txt"; then
    return 0
  fi
  STATE=suspect
  [ ! -e "$LINK/.tandem/suspect" ] || return 0
  [ "$(unchanged_files "$LINK" "$stamp")" -eq "$STAMPED_FILES" ] 2>/dev/null || return 0
  STATE=ready
  set -- "$ENVS/$ENV_NAME"-*
  if [ $# -gt 1 ]; then STATE=untidy; fi
}

# --- building -----------------------------------------------------------------------------
# take_lock: wait until nobody else builds this environment. flock(2) belongs to descriptor 9,
# which this shell and its children share: it is free again when the last of them is gone.
take_lock() {
  mkdir -p "$ENVS" || die "$ENVS: cannot be made; check the permissions of $KIT_ROOT"
  exec 9>"$ENVS/.lock-$ENV_NAME"
  if ! "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    note "another set-up of .venv-$ENV_NAME is running; waiting for it to end"
    run "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null ||
      warn "this filesystem has no locks; do not run two set-ups at once"
  fi
}

# current: the folder's name that the link points to, if it is one of ours.
current() {
  local target
  target=$(readlink "$LINK" 2>/dev/null) || return 0
  case $target in .envs/"$ENV_NAME"-*) printf '%s\n' "${target#.envs/}" ;; esac
}

# remove_others KEEP: delete this environment's other folders, finished or not.
remove_others() {
  local folder
  for folder in "$ENVS/$ENV_NAME"-*; do
    if [ -d "$folder" ] && [ "${folder##*/}" != "$1" ]; then
      rm -rf "$folder" || rm -rf "$folder" # a killed run's last process may still write
    fi
  done
}

# fingerprint BACKEND: twelve digits for lock, interpreter, platform, backend and recipe.
fingerprint() {
  {
    cat "$LOCK"
    printf '%s\n' "$PYTHON" "$PYTHON_VERSION" "$PYTHON_MACHINE" "$(uname -sm)" "$1" "$RECIPE"
    if [ "$1" = conda ]; then printf '%s\n' "$KIT_ROOT"; fi # conda's cannot be moved
  } | sha256_of | cut -c 1-12
}

# choose_folder BACKEND: set FOLDER to a name that is not in use.
choose_folder() {
  local base suffix=''
  base=$ENV_NAME-$(fingerprint "$1")
  while [ "$base$suffix" = "$(current)" ]; do suffix=${suffix}x; done
  FOLDER=$ENVS/$base$suffix
}

# install_packages BACKEND: fill $FOLDER from the lock, every wheel by its hash. What is in uv's
# cache as a whole goes in without a question to the index, which takes a third of the time.
install_packages() {
  local how=(sync "$LOCK") quiet=--quiet
  if [ "$1" = conda ]; then how=(install --requirement "$LOCK"); fi # what conda put there stays
  if [ -t 2 ]; then quiet=--color=auto; fi                          # uv's own progress bars
  how+=(--python "$FOLDER/bin/python" --require-hashes)
  how+=(--only-binary :all: --no-binary langdetect --no-binary rouge-score)
  note "installing ${LOCK##*/} with uv"
  run "$UV" pip "${how[@]}" --quiet --offline ${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"} 2>/dev/null ||
    run "$UV" pip "${how[@]}" "$quiet" ${UV_OPTIONS[@]+"${UV_OPTIONS[@]}"} >&2 ||
    die "uv could not install $LOCK; see its lines above, then run this again"
}

# verify_folder [OPTION...]: hash every file, import every package; DAMAGED gets the names.
verify_folder() {
  local code=0
  run "$FOLDER/bin/python" -I -S "$VERIFY" --seal --damaged "$ENVS/.damaged-$ENV_NAME" \
    "$@" "$FOLDER" >&2 || code=$?
  DAMAGED=$(tr '\n' ' ' <"$ENVS/.damaged-$ENV_NAME" 2>/dev/null) || DAMAGED=''
  rm -f "$ENVS/.damaged-$ENV_NAME"
  return "$code"
}

# clean_cache: uv links files out of its cache, so what is damaged here is damaged there.
clean_cache() {
  [ -n "$DAMAGED" ] || return 0
  note "fetching anew: $DAMAGED"
  # shellcheck disable=SC2086 # a list of names
  run "$UV" cache clean --quiet $DAMAGED >&2 || warn "uv's cache could not be cleaned"
  DAMAGED=''
}

# write_stamp ENV BACKEND MARK: the last thing; MARK is as old as the verification's beginning.
write_stamp() {
  local folder=$1/.tandem files facts
  files=$(unchanged_files "$1" "$3")
  facts=$(python_facts "$1/bin/python")
  facts="$(printf '%s' "$facts" | cut -d '|' -f 2) ${facts%%|*}"
  printf '%s\n' "$(request)" "$2" "$((files))" "$facts" "$GPU" >"$folder/stamp.part"
  touch -r "$3" "$folder/stamp.part"
  rm -f "$folder/suspect"
  mv -f "$folder/stamp.part" "$folder/stamp"
}

# switch_link: one rename, so that there is always an environment under the link.
switch_link() {
  "$PYTHON" -c 'import os, sys
target, link = sys.argv[1:]
part = f"{link}.{os.getpid()}.part"
os.symlink(target, part)
os.replace(part, link)' ".envs/${FOLDER##*/}" "$LINK"
}

# build BACKEND: make, verify and publish the environment; on failure the old one stays.
build() {
  if [ -e "$LINK" ] && [ ! -L "$LINK" ]; then
    die "$LINK is a folder of yours, not a link; move it away (mv $LINK $LINK.old)"
  fi
  need_uv
  uv_settings
  clean_cache
  choose_folder "$1"
  remove_others "$(current)"
  UNFINISHED=$FOLDER
  fill "$1"
  if ! verify_folder; then
    [ -n "$DAMAGED" ] || die "packages are installed and do not import, see above;" \
      "a library path may shadow theirs (LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-})"
    clean_cache
    rm -rf "$FOLDER"
    fill "$1"
    verify_folder || die "files still differ from their packages; check the disk and its free room"
  fi
  final_check "$FOLDER" >&2 || die "the packages are in place and the final check failed, see above"
  UNFINISHED='' # from here on the link may point to it
  switch_link
  write_stamp "$FOLDER" "$1" "$FOLDER/.tandem/mark"
  remove_others "${FOLDER##*/}"
}

# fill BACKEND: $FOLDER with an interpreter and the packages.
fill() {
  case $1 in
    conda) conda_create || die "$CONDA made no environment; --backend venv needs no conda" ;;
    *) run "$UV" venv --quiet --relocatable --no-project --python "$PYTHON" "$FOLDER" >&2 ||
      die "uv could not make an environment with $PYTHON" ;;
  esac
  install_packages "$1"
  mkdir -p "$FOLDER/.tandem"
  cp "$LOCK" "$FOLDER/.tandem/lock.txt"
  : >"$FOLDER/.tandem/mark"
}

# reverify: files changed since the stamp. If they are as installed, stamp anew: nothing to do.
reverify() {
  FOLDER=$ENVS/$(current)
  note "files in .venv-$ENV_NAME changed since it was verified; comparing all of them"
  : >"$FOLDER/.tandem/mark"
  if verify_folder --no-imports; then
    write_stamp "$FOLDER" "$STAMPED_BACKEND" "$FOLDER/.tandem/mark"
    return 0
  fi
  return 1
}

# --- the step that both set-ups share -------------------------------------------------------
# install_environment BACKEND: nothing, a mending, or a new environment; two at once are safe.
install_environment() {
  take_lock
  env_state # once more: another run may have built it while this one waited
  if [ "$FORCE" = no ]; then
    if [ "$STATE" = ready ] || [ "$STATE" = untidy ]; then
      remove_others "$(current)"
      if [ "$STAMPED_GPU" != "$GPU" ]; then
        write_stamp "$LINK" "$STAMPED_BACKEND" "$LINK/.tandem/stamp"
      fi
      return 0
    fi
    if [ "$STATE" = suspect ] && reverify; then return 0; fi
  fi
  build "$1"
}

# check_packages: the report of --check on stdout; what is damaged is marked for the next run.
check_packages() {
  local code=0 list
  env_state
  case $STATE in
    absent) fail_line packages "not set up" "./$PROGRAM" ;;
    other) fail_line packages "made from another lock, Python or back end" "./$PROGRAM" ;;
    *)
      list=$(mktemp "$ENVS/.damaged.XXXXXX")
      run "$LINK/bin/python" -I -S "$VERIFY" --damaged "$list" "$LINK" || code=$?
      if [ -s "$list" ]; then : >"$LINK/.tandem/suspect"; fi
      rm -f "$list"
      ;;
  esac
  if [ "$code" -ne 0 ]; then FAILED=yes; fi
}

# fail_line SUBJECT FOUND FIX: one failed check on stdout.
fail_line() {
  printf 'FAIL  %s  %s\n      fix: %s\n' "$@"
  FAILED=yes
}

# summary: what stands, on stdout.
summary() {
  local site names
  for site in "$LINK"/lib/python3*/site-packages; do break; done
  names=$(sed -n 's/^\([A-Za-z0-9._-]\{1,\}\).*/\1/p' "$KIT_ROOT/configs/requirements-$ENV_NAME.in" |
    tr '\n' ' ') # BSD awk takes no line breaks in -v
  printf 'ok    .venv-%s  Python %s, %s packages, %s\n' "$ENV_NAME" "${STAMPED_PYTHON%% *}" \
    "$(find "$site" -maxdepth 1 -name '*.dist-info' | wc -l | tr -d ' ')" \
    "$(du -sh "$LINK/" | cut -f 1)"
  find "$site" -maxdepth 1 -name '*.dist-info' | awk -v wanted="$names" '
    BEGIN { n = split(wanted, w, " "); while (n) { gsub("_", "-", w[n]); want[w[n--]] } }
    { sub(".*/", ""); sub("\\.dist-info$", ""); at = match($0, /-[^-]*$/)
      name = tolower(substr($0, 1, at - 1)); gsub("_", "-", name)
      if (name in want) printf "      %-24s %s\n", name, substr($0, at + 1) }' | sort
}
